from __future__ import annotations

import numpy as np
import pytest

from hm3rl.agents.served import ServedPreferences
from hm3rl.objectives.indicators import hypervolume
from hm3rl.surrogate.acquisition import choose_by_hypervolume, choose_by_utility, improvement_points

FRONT = np.array([[1.0, 0.2], [0.6, 0.6], [0.2, 1.0]])


def test_dominated_points_measure_the_hypervolume_improvement() -> None:
    upper = np.array([1.1, 1.1])
    points = improvement_points(FRONT, upper, 4096)
    for vector in ([0.8, 0.8], [1.05, 0.3], [0.5, 0.5]):
        exact = hypervolume(np.vstack([FRONT, vector])) - hypervolume(FRONT)
        share = (np.array(vector) >= points).all(axis=1).sum() / 4096
        assert share * upper.prod() == pytest.approx(exact, abs=0.003)


def test_without_uncertainty_the_batch_is_the_greedy_one() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.uniform(0.3, 1.0, size=(20, 2))
    samples = np.repeat(vectors[None], 3, axis=0)
    chosen = choose_by_hypervolume(samples, FRONT, 4, count=8192)
    known = FRONT
    for pick in chosen:
        gains = [hypervolume(np.vstack([known, v])) - hypervolume(known) for v in vectors]
        assert gains[pick] >= max(gains) - 0.004
        known = np.vstack([known, vectors[pick]])


def chosen_for(goals: np.ndarray, samples: np.ndarray, batch: int) -> list[int]:
    return choose_by_utility(samples @ goals.T, (FRONT @ goals.T).max(axis=0), batch).tolist()


def test_a_chosen_path_is_not_chosen_twice_even_when_nothing_helps() -> None:
    samples = np.zeros((4, 3, 2))
    assert sorted(choose_by_hypervolume(samples, FRONT, 5).tolist()) == [0, 1, 2]
    goals = np.array([[0.5, 0.5]])
    chosen = chosen_for(goals, samples, 5)
    assert sorted(chosen) == [0, 1, 2]


def test_uncertain_paths_are_preferred_to_certain_ones_of_the_same_mean() -> None:
    rng = np.random.default_rng(0)
    samples = np.full((256, 2, 2), 0.6)
    samples[:, 1] += 0.2 * rng.standard_normal((256, 2))
    assert choose_by_hypervolume(samples, FRONT, 1).tolist() == [1]
    goals = np.array([[0.5, 0.5], [0.3, 0.7]])
    assert chosen_for(goals, samples, 1) == [1]


def test_a_batch_by_utility_serves_different_preferences() -> None:
    vectors = np.array([[1.2, 0.3], [1.19, 0.3], [0.3, 1.2]])
    goals = np.array([[1.0, 0.0], [0.0, 1.0]])
    chosen = chosen_for(goals, vectors[None], 2)
    assert sorted(chosen) == [0, 2]


def test_preferences_are_drawn_towards_the_gap_of_the_front() -> None:
    front = np.array([[1.0, 0.9], [0.9, 1.0], [0.05, 1.01]])  # nothing far out along the first
    drawn = ServedPreferences(2).sparse(front, 600, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.sum(axis=1), 1.0)
    assert (drawn[:, 0] > 0.9).mean() > 0.15 > 0.1  # uniform draws: 0.1

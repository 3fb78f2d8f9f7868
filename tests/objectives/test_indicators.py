from __future__ import annotations

import numpy as np
import pytest

from hm3rl.objectives.indicators import (
    chosen_utility,
    expected_utility,
    hypervolume,
    non_dominated,
)


def test_three_experts_with_off_task_score_b_have_the_volume_of_the_zoo_formula():
    # Each expert 1 on its own task and b elsewhere: union of three boxes, 3 b^2 - 2 b^3.
    b = 0.3
    experts = np.full((3, 3), b) + np.eye(3) * (1 - b)
    assert hypervolume(experts) == pytest.approx(3 * b**2 - 2 * b**3)


def test_volumes_by_hand():
    assert hypervolume(np.array([[2.0, 1.0], [1.0, 2.0]])) == pytest.approx(3.0)
    assert hypervolume(np.array([[2.0, 2.0]]), reference=np.array([1.0, 1.0])) == pytest.approx(1)
    assert hypervolume(np.array([[0.4], [0.7]])) == pytest.approx(0.7)
    assert hypervolume(np.empty((0, 3))) == 0.0
    assert hypervolume(np.array([[1.0, 0.0]])) == 0.0


def test_values_above_one_are_not_clipped():
    assert hypervolume(np.array([[1.2, 1.1, 1.0]])) == pytest.approx(1.32)


def test_monte_carlo_agrees_with_the_exact_volume():
    rng = np.random.default_rng(1)
    points = rng.uniform(size=(12, 3))
    samples = rng.uniform(size=(40000, 3))
    share = (samples[:, None, :] <= points[None]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points) == pytest.approx(share, abs=0.015)


def test_of_equal_points_the_first_is_non_dominated():
    points = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.5]])
    assert non_dominated(points).tolist() == [True, True, False, False]


def test_expected_utility_takes_the_best_point_for_each_preference():
    points = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_utility(points, np.array([[1.0, 0.0], [0.5, 0.5]])) == pytest.approx(0.75)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        hypervolume(np.array([[np.nan, 1.0]]))


def test_a_model_is_chosen_by_some_scores_and_judged_by_others():
    decisive = np.array([[1.0, 0.0], [0.9, 0.2], [0.0, 1.0]])
    judged = np.array([[0.5, 0.0], [0.8, 0.4], [0.1, 0.6]])
    preferences = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert chosen_utility(decisive, judged, preferences) == pytest.approx((0.5 + 0.6) / 2)


def test_a_chosen_model_is_worth_no_more_than_the_best_one():
    rng = np.random.default_rng(0)
    truth = rng.random((40, 3))
    decisive, judged = (truth + rng.normal(0, 0.05, truth.shape) for _ in range(2))
    preferences = rng.dirichlet(np.ones(3), size=50)
    for kind in ("weighted_sum", "tchebycheff"):
        chosen = chosen_utility(decisive, judged, preferences, kind)
        assert chosen < expected_utility(judged, preferences, kind)
        assert chosen_utility(judged, judged, preferences, kind) == pytest.approx(
            expected_utility(judged, preferences, kind)
        )

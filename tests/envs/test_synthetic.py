from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from hm3rl.envs.synthetic import SyntheticMergeEnv, SyntheticProblem
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import tchebycheff


def test_returns_follow_the_formula() -> None:
    problem = SyntheticProblem(
        gains=np.array([[[1.0], [2.0]], [[10.0], [20.0]], [[100.0], [200.0]]]),
        switch_cost=np.array([0.5]),
    )
    assert problem.value(np.array([[0, 1, 1], [1, 0, 1]])).ravel().tolist() == [220.5, 211.0]


def test_viterbi_is_the_best_of_all_paths() -> None:
    problem = SyntheticProblem.draw(layers=6, members=3, objectives=3, seed=1)
    every = problem.value(np.array(list(product(range(3), repeat=6))))
    for preference in sample_dirichlet(10, 3, np.random.default_rng(0)):
        utility, choice = problem.viterbi(preference)
        assert utility == pytest.approx((every @ preference).max())
        assert problem.value(choice[None])[0] @ preference == pytest.approx(utility)
        assert problem.enumerate_best(preference, "weighted_sum") == pytest.approx(utility)


def test_the_scale_runs_from_random_to_the_optimum() -> None:
    problem = SyntheticProblem.draw(layers=5, members=3, objectives=2, seed=2)
    preference = np.array([0.3, 0.7])
    every = problem.value(np.array(list(product(range(3), repeat=5)))) @ preference
    assert problem.normalised(float(every.mean()), preference) == pytest.approx(0.0)
    assert problem.normalised(float(every.max()), preference) == pytest.approx(1.0)


def test_the_environment_pays_the_problems_returns() -> None:
    env = SyntheticMergeEnv(layers=4, members=2, objectives=2, seed=0)
    env.reset(options={"preference": np.array([1.0, 0.0])})
    choice = [0, 1, 1, 0]
    actions = [0, *(env.space.layer_action(m, t) for t, m in enumerate(choice)), env.space.stop]
    for action in actions:
        _, reward, terminated, _, info = env.step(np.int64(action))
    assert terminated
    np.testing.assert_allclose(info["vector_reward"], env.problem.value(np.array([choice]))[0])
    assert reward == pytest.approx(info["vector_reward"][0])


def test_large_instances_are_not_enumerated() -> None:
    problem = SyntheticProblem.draw(layers=32, members=4, objectives=3, seed=0)
    with pytest.raises(ValueError, match="too many"):
        problem.enumerate_best(np.ones(3) / 3, "tchebycheff")


def test_tchebycheff_reaches_paths_that_no_linear_preference_does() -> None:
    problem = SyntheticProblem(
        gains=np.array([[[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]]]), switch_cost=np.zeros(2)
    )
    for share in np.linspace(0.0, 1.0, 21):
        goal = np.array([share, 1.0 - share])
        assert problem.viterbi(goal)[1].tolist() != [2]
    middle = np.array([0.5, 0.5])
    best = problem.enumerate_best(middle, "tchebycheff")
    assert best == pytest.approx(tchebycheff(np.array([0.4, 0.4]), middle))


def test_instances_have_the_stated_distribution() -> None:
    problem = SyntheticProblem.draw(layers=400, members=10, objectives=5, seed=0)
    assert problem.gains.var() == pytest.approx(1 / 400, rel=0.03)
    assert problem.gains.mean() == pytest.approx(0.0, abs=2e-3)
    costs = np.array([SyntheticProblem.draw(4, 2, 3, seed).switch_cost for seed in range(400)])
    assert costs.min() >= 0.0 and costs.max() <= 0.3
    assert costs.mean() == pytest.approx(0.6 * 0.5 / 2, rel=0.05)


def test_the_reward_is_terminal_and_undiscounted() -> None:
    env = SyntheticMergeEnv(layers=3, members=2, objectives=2, seed=4)
    env.reset(seed=0)
    rewards = []
    for action in [0, *(env.space.layer_action(1, t) for t in range(3)), env.space.stop]:
        _, reward, terminated, truncated, info = env.step(np.int64(action))
        rewards.append(reward)
        assert not truncated
    assert rewards[:-1] == [0.0] * 4
    assert terminated and rewards[-1] != 0.0
    np.testing.assert_allclose(info["vector_reward"], env.problem.gains[:, 1].sum(axis=0))

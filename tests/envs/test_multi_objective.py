from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from hm3rl.envs import MO_SYNTHETIC_ID
from hm3rl.envs.multi_objective import VectorRewardView
from hm3rl.envs.synthetic import SyntheticMergeEnv


def test_the_view_returns_vectors_and_keeps_the_scalar() -> None:
    env = gym.make(MO_SYNTHETIC_ID, layers=3, members=2, objectives=2, seed=0)
    env.reset(seed=0, options={"preference": np.array([0.25, 0.75])})
    space = env.unwrapped.space
    actions = [0, *(space.layer_action(1, layer) for layer in range(3)), space.stop]
    for action in actions:
        _, reward, terminated, truncated, info = env.step(np.int64(action))
    assert terminated and not truncated
    expected = env.unwrapped.problem.value(np.ones((1, 3), dtype=int))[0]
    np.testing.assert_allclose(reward, expected)
    assert info["scalar_reward"] == pytest.approx(expected @ [0.25, 0.75])
    assert env.unwrapped.reward_space.contains(reward)
    assert env.unwrapped.reward_dim == 2


def test_the_view_shows_the_masks() -> None:
    plain = SyntheticMergeEnv(layers=3, members=2, objectives=2)
    view = VectorRewardView(plain)
    view.reset(seed=0)
    np.testing.assert_array_equal(view.action_masks(), plain.action_masks())
    assert view.action_masks().sum() == 1

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from hm3rl.envs import (
    MO_BLEND_PATH_ID,
    MO_MERGE_PATH_ID,
    MO_SYNTHETIC_BLENDS_ID,
    MO_SYNTHETIC_ID,
)
from hm3rl.envs.multi_objective import VectorRewardView
from hm3rl.envs.synthetic import SyntheticMergeEnv
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.limits import PathLimits
from tests.envs.test_merge_path import Scores
from tests.paths.test_space import make_space


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


def test_the_view_of_blends_returns_vectors() -> None:
    env = gym.make(MO_SYNTHETIC_BLENDS_ID, layers=2, experts=2, objectives=3, flat=True)
    env.reset(seed=0, options={"preference": np.array([0.2, 0.3, 0.5])})
    for _ in range(4):
        _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert terminated
    np.testing.assert_allclose(reward, env.unwrapped.problem.value(np.full((1, 3, 2), 0.5))[0])
    assert info["scalar_reward"] == pytest.approx(reward @ [0.2, 0.3, 0.5])
    assert env.unwrapped.reward_space.contains(reward)


def test_views_of_ones_own_paths_are_registered() -> None:
    space = make_space(PathLimits(2, 4))
    members = gym.make(MO_MERGE_PATH_ID, space=space, score_paths=Scores(), objectives=2)
    space = BlendSpace(("a", "b"), 3)
    blends = gym.make(MO_BLEND_PATH_ID, blends=space, score_paths=Scores(), objectives=2)
    for env in (members, blends):
        env.reset(seed=0)
        _, reward, *_ = env.step(env.action_space.sample())
        assert reward.shape == (2,)

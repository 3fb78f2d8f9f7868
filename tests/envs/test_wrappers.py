from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN

from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.vector import MergePathVecEnv
from hm3rl.envs.wrappers import LegalActions, LegalActionsVec, OneHotPath, nth_legal, number_of
from hm3rl.errors import InputError
from hm3rl.paths.limits import PathLimits
from tests.envs.test_blend_path import SAME
from tests.envs.test_blend_path import make_env as make_blends
from tests.envs.test_merge_path import Scores, make_env
from tests.paths.test_space import make_space


def test_a_form_that_is_none_is_refused():
    with pytest.raises(InputError, match="form='boxes'"):
        gym.make("hm3rl/SyntheticMerge-v0", form="boxes")


@pytest.mark.parametrize("limits", [PathLimits(2, 4), PathLimits(4, 4, actions="same_depth")])
def test_no_number_of_a_legal_action_is_illegal_and_each_path_has_one(limits: PathLimits):
    scores = Scores()
    env = LegalActions(MergePathEnv(make_space(limits, (4, 4)), scores, 2))
    env.action_space.seed(0)
    for _ in range(200):
        env.reset()
        ended = False
        while not ended:
            before = env.unwrapped.action_masks()
            assert 1 <= before.sum() <= env.action_space.n
            action = env.action_space.sample()
            chosen = nth_legal(before, int(action))
            assert before[chosen]
            assert number_of(before, chosen) == action % before.sum()
            assert env.action_masks().sum() == before.sum()
            _, _, ended, truncated, info = env.step(action)
            assert "illegal" not in info and not truncated
    assert env.unwrapped.illegal_episodes == 0
    assert len(scores.asked) == env.unwrapped.episodes == 200


def test_blends_have_no_numbers():
    with pytest.raises(InputError, match="box"):
        LegalActions(make_blends(SAME))


def test_one_hot_paths_say_what_numbers_say():
    env, _ = make_env()
    view = OneHotPath(env)
    view.reset(seed=0)
    seen, *_ = view.step(np.int64(1))
    rows = seen["path"].reshape(env.space.horizon, env.space.pad + 1)
    assert rows.argmax(axis=1).tolist() == [1, *[env.space.pad] * (env.space.horizon - 1)]
    assert (rows.sum(axis=1) == 1).all()
    assert view.observation_space.contains(seen)


def test_an_algorithm_without_masks_is_told_of_its_illegal_actions(caplog):
    env, scores = make_env()
    env.action_space.seed(0)
    for _ in range(30):
        env.reset()
        ended = False
        while not ended:
            _, _, ended, _, _ = env.step(env.action_space.sample())
    _, info = env.reset()
    assert info["episodes"] == 30
    assert info["illegal_episodes"] == 30 - len(scores.asked) > 20
    assert "LegalActions" in caplog.text and "of 30" not in caplog.text  # at 1 and 10, no more


def test_dqn_learns_by_numbers_over_episodes_side_by_side():
    scores = Scores()
    env = MergePathEnv(make_space(PathLimits(2, 4)), scores, 2, describe=False)
    assert "context" not in env.observation_space.spaces
    episodes = LegalActionsVec(MergePathVecEnv(env, 3, idle=False))
    assert isinstance(episodes.action_space, spaces.Discrete)
    learner = DQN("MultiInputPolicy", episodes, learning_starts=10, buffer_size=500, seed=0)
    learner.learn(300)
    assert env.illegal_episodes == 0
    assert len(scores.asked) == env.episodes > 300 / env.space.horizon - 3

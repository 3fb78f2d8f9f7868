from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from hm3rl.envs import MERGE_PATH_ID, SYNTHETIC_ID
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from tests.paths.test_space import make_space


class Scores:
    """Shares of layers taken from each member; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, paths: list[LayerPath]) -> np.ndarray:
        self.asked += [str(path) for path in paths]
        members = [[ref.member for ref in path.refs] for path in paths]
        return np.array([[used.count(m) / len(used) for m in "ab"] for used in members])


def make_env(**options: object) -> tuple[MergePathEnv, Scores]:
    scores = Scores()
    space = make_space(PathLimits(2, 4))
    return MergePathEnv(space, scores, 2, **options), scores  # type: ignore[arg-type]


def test_it_is_registered() -> None:
    space = make_space(PathLimits(2, 4))
    env = gym.make(MERGE_PATH_ID, space=space, score_paths=Scores(), objectives=2)
    assert env.unwrapped.reward_dim == 2
    assert gym.make(SYNTHETIC_ID, layers=4, members=2).action_space.n == 2 + 8 + 1


def test_an_episode_pays_at_its_end_under_its_preference() -> None:
    env, scores = make_env(length_cost=0.01)
    env.reset(options={"preference": np.array([0.75, 0.25])})
    a, b = env.space.layer_action(0, 0), env.space.layer_action(1, 2)
    for action in (1, a, a, b):
        _, reward, terminated, truncated, info = env.step(np.int64(action))
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert not info["vector_reward"].any()
    observation, reward, terminated, _, info = env.step(np.int64(env.space.stop))
    np.testing.assert_allclose(info["vector_reward"], [2 / 3, 1 / 3])
    assert terminated
    assert type(reward) is float
    assert reward == pytest.approx(0.75 * 2 / 3 + 0.25 / 3 - 0.03)
    assert scores.asked == ["b | a[0] + a[0] + b[2]"]
    assert observation["path"].tolist()[:5] == [1, a, a, b, env.space.stop]


def test_tchebycheff_pays_the_worst_gap() -> None:
    env, _ = make_env(scalarisation="tchebycheff")
    env.reset(options={"preference": np.array([0.5, 0.5])})
    a, b = env.space.layer_action(0, 0), env.space.layer_action(1, 2)
    for action in (0, a, a, a, b):
        env.step(np.int64(action))
    _, reward, *_ = env.step(np.int64(env.space.stop))
    gaps = 0.5 * (1.1 - np.array([0.75, 0.25]))
    assert reward == pytest.approx(-(gaps.max() + 0.05 * gaps.sum()))


def test_an_illegal_action_ends_the_episode_and_scores_nothing() -> None:
    env, scores = make_env()
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(np.int64(env.space.stop))
    assert (reward, terminated, truncated, info["illegal"]) == (0.0, True, False, True)
    assert info["vector_reward"].tolist() == [0.0, 0.0]
    assert scores.asked == []


def test_preferences_come_from_the_seed() -> None:
    env, _ = make_env()
    first = env.reset(seed=3)[0]["preference"]
    again = env.reset(seed=3)[0]["preference"]
    other = env.reset()[0]["preference"]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.sum() == pytest.approx(1.0)


def test_a_path_without_a_score_has_no_reward_and_says_so() -> None:
    env, _ = make_env(length_cost=0.01)
    env.score_paths = lambda paths: [None for _ in paths]
    env.reset(seed=0)
    a = env.space.layer_action(0, 0)
    for action in (0, a, a):
        _, _, terminated, _, info = env.step(np.int64(action))
        assert not terminated and "failed" not in info
    _, reward, terminated, truncated, info = env.step(np.int64(env.space.stop))
    assert (reward, terminated, truncated, info["failed"]) == (0.0, True, False, True)

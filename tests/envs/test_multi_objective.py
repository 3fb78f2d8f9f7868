"""The ids whose rewards are vectors."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from hm3rl.envs import MO_MERGE_PATH_ID, MO_SYNTHETIC_ID
from hm3rl.envs.synthetic import SyntheticMergeEnv
from tests.small_search import TASKS


def test_rewards_are_vectors_and_the_scalar_is_told() -> None:
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


def test_so_are_those_of_blends() -> None:
    env = gym.make(MO_SYNTHETIC_ID, form="box", layers=2, experts=2, objectives=3)
    env.reset(seed=0, options={"preference": np.array([0.2, 0.3, 0.5])})
    for _ in range(4):
        _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert terminated
    np.testing.assert_allclose(reward, env.unwrapped.problem.value(np.full((1, 3, 2), 0.5))[0])
    assert info["scalar_reward"] == pytest.approx(reward @ [0.2, 0.3, 0.5])


def test_an_environment_of_ones_own_can_have_them_too() -> None:
    env = SyntheticMergeEnv(layers=3, members=2, objectives=2)
    env.vector_rewards = True
    env.reset(seed=0)
    _, reward, *_ = env.step(np.int64(0))
    np.testing.assert_array_equal(reward, np.zeros(2))


@pytest.mark.parametrize("form", ["discrete", "hybrid", "box"])
def test_a_whole_problem_pays_vectors_and_charges_its_budget(form: str, tmp_path: Path) -> None:
    few = [f"tasks.{task}.{split}_items=24" for task in TASKS for split in ("search", "test")]
    words = ["experiment=tiny", *few, f"output={tmp_path / 'run'}"]
    env = gym.make(MO_MERGE_PATH_ID, config=words, budget=2, form=form)
    bare = env.unwrapped
    rng = np.random.default_rng(0)
    env.action_space.seed(0)
    for used in (1, 2):
        env.reset(seed=used)
        ended = False
        while not ended:
            legal = np.flatnonzero(bare.action_masks())
            action = rng.choice(legal) if form == "discrete" else env.action_space.sample()
            if form == "hybrid":
                action["layer"] = legal[0]
            _, reward, ended, _, info = env.step(action)

        np.testing.assert_array_equal(reward, info["vector_reward"])
        assert bare.problem.used == used and reward.shape == (3,) and reward.any()
    env.close()

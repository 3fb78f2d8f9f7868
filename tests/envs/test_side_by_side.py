from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from hm3rl.envs.side_by_side import PathVectorEnv


def walk(env: PathVectorEnv, steps: int, seed: int) -> list:
    rng = np.random.default_rng(seed)
    masks = (env.action_masks() for _ in range(steps))
    return [env.step(np.array([rng.choice(np.flatnonzero(row)) for row in mask])) for mask in masks]


def test_episodes_pay_side_by_side_and_begin_anew():
    env = gym.make_vec("hm3rl/SyntheticMerge-v0", num_envs=3, layers=4, members=2, objectives=2)
    assert isinstance(env, PathVectorEnv) and env.num_envs == 3
    seen, _ = env.reset(seed=1, options=None)
    assert env.observation_space.contains(seen)
    *before, last = walk(env, 6, seed=0)
    assert not any(step[2].any() for step in before)
    observations, rewards, terminated, truncated, infos = last
    assert terminated.all() and not truncated.any()
    assert env.observation_space.contains(observations)
    assert (observations["length"] == 0).all()
    told = infos["final_info"]
    paths = told["path"]
    expected = env.unwrapped.problem.score_paths(list(paths))
    np.testing.assert_allclose(np.stack(told["vector_reward"]), expected)
    preferences = np.stack(told["preference"])
    np.testing.assert_allclose(rewards, (expected * preferences).sum(axis=1), rtol=1e-5)


def test_the_same_seed_draws_the_same_preferences():
    env = gym.make_vec("hm3rl/SyntheticMerge-v0", num_envs=2, layers=3)
    first = env.reset(seed=5)[0]["preference"].copy()
    walk(env, 4, seed=0)
    np.testing.assert_array_equal(env.reset(seed=5)[0]["preference"], first)


def test_a_preference_is_given_to_all():
    env = gym.make_vec("hm3rl/SyntheticMerge-v0", num_envs=2, layers=3, objectives=2)
    wanted = np.array([0.25, 0.75])
    seen, _ = env.reset(options={"preference": wanted})
    assert seen["preference"] == pytest.approx(np.stack([wanted] * 2))


def test_blends_side_by_side_take_one_vector_each():
    env = gym.make_vec("hm3rl/SyntheticMerge-v0", num_envs=2, form="box", layers=3, experts=2)
    env.reset(seed=0)
    for _ in range(5):
        *_, terminated, _, infos = env.step(env.action_space.sample())
    assert terminated.all() and len(infos["final_info"]["path"]) == 2

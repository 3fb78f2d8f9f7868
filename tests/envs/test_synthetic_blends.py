from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO

from hm3rl.envs import SYNTHETIC_ID
from hm3rl.envs.synthetic_blends import SyntheticBlendsEnv
from hm3rl.envs.vector import MergePathVecEnv
from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.objectives.utility import Utility


def test_the_environment_pays_the_problems_values() -> None:
    env = gym.make(SYNTHETIC_ID, form="hybrid", layers=3, experts=2, objectives=2, seed=4)
    problem = env.unwrapped.problem
    preference = np.array([0.25, 0.75])
    env.reset(options={"preference": preference})
    blends = np.random.default_rng(0).uniform(size=(4, 2)).round(4)
    for layer, blend in zip((0, 0, 1, 2), blends, strict=True):
        _, reward, terminated, *_ = env.step({"layer": layer, "blend": blend.astype(np.float32)})
        assert (reward, terminated) == (0.0, False)
    _, reward, terminated, _, info = env.step({"layer": 3, "blend": np.zeros(2, np.float32)})
    assert terminated
    np.testing.assert_allclose(info["vector_reward"], problem.value(blends[None])[0])
    assert reward == pytest.approx(info["vector_reward"] @ preference)
    assert reward < problem.best(preference, Utility())


def test_ppo_learns_to_serve_preferences() -> None:
    env = SyntheticBlendsEnv(layers=3, experts=2, objectives=2, seed=0, flat=True)
    problem, lattice = env.problem, simplex_lattice(2, 10)
    learner = PPO(
        "MultiInputPolicy",
        MergePathVecEnv(env, 16),
        n_steps=4 * env.space.horizon,
        batch_size=80,
        gamma=1.0,
        gae_lambda=1.0,
        learning_rate=1e-3,
        policy_kwargs={"log_std_init": -1.0},
        seed=0,
        device="cpu",
    )
    learner.learn(4800)
    worth = []
    for preference in lattice:
        seen, _ = env.reset(options={"preference": preference})
        ended = False
        while not ended:
            seen, reward, ended, _, _ = env.step(learner.predict(seen, deterministic=True)[0])
        worth.append(reward)
    random = problem.value(np.random.default_rng(0).uniform(size=(1000, 4, 2))) @ lattice.T
    # The best blends for all preferences alike: what a policy gets that does not look at them.
    blind = problem.value(problem.targets.mean(axis=0)[None]) @ lattice.T
    best = np.mean([problem.best(preference, Utility()) for preference in lattice])
    assert random.mean() < blind.mean() < np.mean(worth) <= best

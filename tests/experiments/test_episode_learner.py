"""What the checks on MO-Gymnasium's environments learn with, on an environment of known returns."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from experiments.agent_checks.episodes import EpisodeReplay, returns_to_go
from experiments.agent_checks.learner import EpisodeLearner, LearnerSettings
from experiments.agent_checks.preference_env import Episode, PreferenceEnv, VectorRewards

LEFT, RIGHT, WAIT, HATCH = range(4)

GOALS = np.array([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]])
"""Of the corridor: its ends pay most for the outer four; in the middle they all pay half."""


class Corridor(gym.Env[Any, Any]):
    """Walk left or right from the middle of a corridor of five places; each end pays an objective.

    The left end pays (1, 0), the right end (0, 1), the hatch in the middle pays `hatch` on both;
    elsewhere it is a wait, which pays nothing. Every action costs `cost` on both.
    """

    def __init__(self, hatch: float, cost: float) -> None:
        self.hatch, self.cost = hatch, cost
        self.observation_space = spaces.Box(0, 4, shape=(1,), dtype=np.int64)
        self.action_space = spaces.Discrete(4)
        self.reward_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple:
        super().reset(seed=seed)
        self.place = 2
        return np.array([self.place]), {}

    def step(self, action: int) -> tuple:
        reward = np.full(2, -self.cost)
        if action == HATCH and self.place == 2:
            return np.array([self.place]), reward + self.hatch, True, False, {}
        self.place += (-1, 1, 0, 0)[action]
        ends = np.array([self.place == 0, self.place == 4], dtype=float)
        return np.array([self.place]), reward + ends, bool(ends.any()), False, {}


def corridor(limit: int = 12, hatch: float = 0.4, cost: float = 0.0) -> gym.Env:
    return gym.wrappers.TimeLimit(Corridor(hatch, cost), limit)


def seen(env: gym.Env, **options: Any) -> PreferenceEnv:
    return PreferenceEnv(env, **{"gamma": 0.99, **options})


@pytest.mark.filterwarnings("ignore::UserWarning")  # wrappers and unbounded features, on purpose
@pytest.mark.parametrize("kind", ["weighted_sum", "tchebycheff"])
def test_the_adapter_is_a_proper_environment(kind: str) -> None:
    check_env(seen(corridor(), scalarisation=kind), skip_render_check=True)


def test_places_are_one_hot() -> None:
    env = seen(corridor())
    np.testing.assert_array_equal(env.reset(seed=0)[0]["state"], [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(env.step(LEFT)[0]["state"], [0, 1, 0, 0, 0])


def test_linear_rewards_are_paid_at_once_and_scaled() -> None:
    env = seen(corridor(cost=0.1), gamma=0.5, scale=2.0)
    env.reset(seed=0, options={"preference": np.array([0.75, 0.25])})
    _, first, *_ = env.step(LEFT)
    observation, second, terminated, _, info = env.step(LEFT)
    assert first == pytest.approx(-0.05)
    assert second == pytest.approx((0.75 * 0.9 - 0.25 * 0.1) / 2)
    assert terminated
    assert set(observation) == {"state", "preference"}
    np.testing.assert_allclose(info["vector_return"], [-0.1 + 0.5 * 0.9, -0.1 - 0.5 * 0.1])


def test_other_utilities_are_paid_at_the_end_and_the_accrued_vector_is_seen() -> None:
    env = seen(corridor(cost=0.1), gamma=0.5, scalarisation="tchebycheff", utopia=1.0, rho=0.0)
    env.reset(seed=0, options={"preference": np.array([0.5, 0.5])})
    observation, first, *_ = env.step(WAIT)
    np.testing.assert_allclose(observation["state"][-3:], [-0.1, -0.1, 0.5], atol=1e-6)
    _, second, terminated, _, info = env.step(HATCH)
    assert first == 0.0 and terminated
    total = -0.1 + 0.5 * (0.4 - 0.1)
    np.testing.assert_allclose(info["vector_return"], [total, total])
    assert second == pytest.approx(-0.5 * (1.0 - total))


def test_a_time_limit_ends_the_episode() -> None:
    env = seen(corridor(limit=3))
    env.reset(seed=0)
    ends = [env.step(WAIT)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (True, False)]


def test_preferences_depend_on_the_seed_alone() -> None:
    first, second = (
        [env.reset(seed=seed)[0]["preference"] for seed in (3, None, 3)]
        for env in (seen(corridor()), seen(corridor()))
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[0], first[2])
    assert (first[0] != first[1]).all()


def test_complete_episodes_are_recorded_with_vectors() -> None:
    episodes: list[Episode] = []
    env = VectorRewards(DummyVecEnv([lambda: seen(corridor(), listener=episodes.append)] * 2))
    env.seed(0)
    first = env.reset()
    env.step(np.array([LEFT, HATCH]))
    _, rewards, dones, _ = env.step(np.array([LEFT, RIGHT]))
    np.testing.assert_allclose(rewards, [[1.0, 0.0], [0.0, 0.0]])
    assert dones.tolist() == [True, False]
    assert [len(episode.actions) for episode in episodes] == [1, 2]
    hatch, left = episodes
    np.testing.assert_allclose(hatch.rewards, [[0.4, 0.4]])
    assert left.actions.tolist() == [LEFT, LEFT]
    np.testing.assert_array_equal(left.states[0], first["state"][0])
    np.testing.assert_allclose(left.preference, first["preference"][0], atol=1e-6)


def test_returns_to_go_are_discounted_sums() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0]])
    np.testing.assert_allclose(returns_to_go(rewards, 0.5), [[2.0, 2.0], [2.0, 4.0], [4.0, 4.0]])


def test_the_oldest_episode_makes_room() -> None:
    replay = EpisodeReplay(1, 1.0, capacity=2)
    for value in (1.0, 2.0, 3.0):
        one = np.ones((1, 1))
        replay.add(Episode(one, np.zeros(1, dtype=int), value * one, np.ones(1)))
    assert len(replay) == 2
    assert replay.vectors.ravel().tolist() == [3.0, 2.0]
    assert [float(e.rewards[0, 0]) for e in replay.episodes] == [3.0, 2.0]


def make(hatch: float = 0.6) -> gym.Env:
    return corridor(hatch=hatch, cost=0.02)


def quick(**options: Any) -> LearnerSettings:
    small = {
        "hidden": 32,
        "envs": 8,
        "steps": 32,
        "minibatch": 64,
        "learning_rate": 5e-3,
        "pretrain_rate": 5e-3,
        "pretrain_steps": 150,
        "gamma": 1.0,
        "entropy": 0.02,
        "replay_steps": 4,
        "temperature": 0.1,
    }
    return LearnerSettings(**{**small, **options})


def shortfall(agent: EpisodeLearner) -> float:
    """Mean linear utility lost to the best, without discount: the hatch, or two steps to an end."""
    best = np.maximum(0.6 - 0.02, GOALS.max(axis=1) - 2 * 0.02)
    return float((best - (agent.returns(GOALS) * GOALS).sum(axis=1)).mean())


@pytest.mark.parametrize(
    "options", [{}, {"conditioning": "film", "replay_steps": 0}, {"faces": True, "epochs": 2}]
)
def test_ppo_learns_what_each_preference_wants(options: dict) -> None:
    agent = EpisodeLearner(make, quick(**options), seed=0)
    before = shortfall(agent)
    agent.online(4000)
    assert before > 0.2
    assert shortfall(agent) < 0.05


def test_random_episodes_are_enough_offline() -> None:
    agent = EpisodeLearner(make, quick(), seed=0)
    agent.offline(150)
    assert len(agent.replay) == 150
    assert shortfall(agent) < 0.1


def test_only_a_nonlinear_utility_takes_the_balanced_choice() -> None:
    """A hatch that pays (.4, .4) is never best for a weighted sum, always for the middle here."""
    middle = np.array([[0.5, 0.5]])
    reached = {}
    for kind in ("weighted_sum", "tchebycheff"):
        settings = quick(scalarisation=kind)
        agent = EpisodeLearner(lambda: make(hatch=0.4), settings, seed=0, utopia=1.0)
        agent.offline(150)
        agent.online(1000)
        agent.consolidate(60, 0.02)
        reached[kind] = agent.returns(middle)[0]
    assert reached["tchebycheff"].min() == pytest.approx(0.38)
    assert reached["weighted_sum"].sum() == pytest.approx(1.0 - 4 * 0.02)


def test_v_learns_returns_and_v_u_utilities() -> None:
    agent = EpisodeLearner(make, quick(pretrain_steps=300, pretrain_rate=1e-3), seed=0)
    agent.offline(200)
    every = np.arange(200)
    own = np.stack([episode.preference for episode in agent.replay.episodes])
    batch = agent.regression.batch(every, np.tile(GOALS[1], (200, 1)))
    acted = agent.regression.batch(every, own)
    with torch.no_grad():
        utility = agent.policy.heads(batch.states, batch.preference).utility
        error = acted.to_go - agent.policy.heads(acted.states, acted.preference).values
    assert abs(float((batch.utility - utility).mean())) < 0.05
    assert float(error.var()) < 0.9 * float(acted.to_go.var())


def test_the_same_seed_learns_the_same() -> None:
    def weights(seed: int) -> torch.Tensor:
        agent = EpisodeLearner(make, quick(pretrain_steps=5), seed)
        agent.offline(10)
        agent.online(300)
        return torch.cat([p.detach().ravel() for p in agent.policy.parameters()])

    first, second, other = weights(1), weights(1), weights(2)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from hm3rl.agents.discrete import DiscreteAgent, DiscreteSettings
from hm3rl.agents.episodes import EpisodeReplay, returns_to_go
from hm3rl.envs.multi_objective_vector import Episode
from hm3rl.errors import InputError
from hm3rl.objectives.preferences import sample_faces
from tests.envs.small_mo import corridor

GOALS = np.array([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]])
"""Of the corridor: its ends pay most for the outer four; in the middle they all pay half."""


def make(hatch: float = 0.6, limit: int = 12) -> gym.Env:
    return corridor(limit=limit, half=2, hatch=(hatch, hatch), cost=0.02)


def quick(**options: object) -> DiscreteSettings:
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
    return DiscreteSettings(**{**small, **options})  # type: ignore[arg-type]


def best(goal: np.ndarray, hatch: float = 0.6) -> float:
    """Highest linear utility in the corridor without discount."""
    return max(hatch - 0.02, float(goal.max()) - 2 * 0.02)


def shortfall(agent: DiscreteAgent) -> float:
    found = (agent.returns(GOALS) * GOALS).sum(axis=1)
    return float(np.mean([best(goal) - value for goal, value in zip(GOALS, found, strict=True)]))


def test_returns_to_go_are_discounted_sums() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0]])
    np.testing.assert_allclose(returns_to_go(rewards, 0.5), [[2.0, 2.0], [2.0, 4.0], [4.0, 4.0]])


def test_the_oldest_episode_makes_room() -> None:
    replay = EpisodeReplay(1, 1.0, capacity=2)
    for value in (1.0, 2.0, 3.0):
        one = np.ones((1, 1))
        replay.add(Episode(one, np.zeros(1, dtype=int), one > 0, value * one, np.ones(1)))
    assert len(replay) == 2
    assert replay.vectors.ravel().tolist() == [3.0, 2.0]
    assert [float(e.rewards[0, 0]) for e in replay.episodes] == [3.0, 2.0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"critic": "scalar", "conditioning": "film", "anchor": "none"},
        {"preferences": "faces", "epochs": 2},
    ],
)
def test_ppo_learns_what_each_preference_wants(options: dict) -> None:
    agent = DiscreteAgent(make, quick(**options), seed=0)
    before = shortfall(agent)
    agent.online(4000)
    assert before > 0.2
    assert shortfall(agent) < 0.05


@pytest.mark.parametrize(
    "options", [{}, {"weighting": "step"}, {"hindsight": False, "temperature": 0.3}]
)
def test_random_episodes_are_enough_offline(options: dict) -> None:
    agent = DiscreteAgent(make, quick(**options), seed=0)
    losses = agent.offline(150)
    assert set(losses) == {"regression/policy", "regression/utility", "regression/value"}
    assert len(agent.replay) == 150
    assert shortfall(agent) < 0.1


def test_only_a_nonlinear_utility_takes_the_balanced_choice() -> None:
    """A hatch that pays (.4, .4) is never best for a weighted sum, always for the middle here."""
    middle = np.array([[0.5, 0.5]])
    reached = {}
    for kind in ("weighted_sum", "tchebycheff"):
        settings = quick(scalarisation=kind)
        agent = DiscreteAgent(lambda: make(hatch=0.4), settings, seed=0, utopia=1.0)
        agent.offline(150)
        agent.online(1000)
        agent.consolidate(60, 0.02)
        reached[kind] = agent.returns(middle)[0]
    assert reached["tchebycheff"].min() == pytest.approx(0.38)
    assert reached["weighted_sum"].sum() == pytest.approx(1.0 - 4 * 0.02)


def test_v_learns_returns_and_v_u_utilities() -> None:
    agent = DiscreteAgent(make, quick(pretrain_steps=300), seed=0)
    agent.offline(200)
    batch = agent.regression._batch(agent.replay, np.arange(200), np.tile(GOALS[1], (200, 1)))
    with torch.no_grad():
        utility = agent.policy.heads(batch.states, batch.preference).utility
    assert abs(float((batch.utility - utility).mean())) < 0.05
    own = np.stack([episode.preference for episode in agent.replay.episodes])
    acted = agent.regression._batch(agent.replay, np.arange(200), own)
    with torch.no_grad():
        error = acted.to_go - agent.policy.heads(acted.states, acted.preference).values
    assert float(error.var()) < 0.9 * float(acted.to_go.var())


def test_the_same_seed_learns_the_same() -> None:
    def weights(seed: int) -> torch.Tensor:
        agent = DiscreteAgent(make, quick(pretrain_steps=5), seed)
        agent.offline(10)
        agent.online(300)
        return torch.cat([p.detach().ravel() for p in agent.policy.parameters()])

    first, second, other = weights(1), weights(1), weights(2)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_networks_survive_their_zip(tmp_path: Path) -> None:
    agent = DiscreteAgent(make, quick(pretrain_steps=50), seed=0)
    agent.offline(50)
    agent.save(tmp_path / "agent.zip")
    other = DiscreteAgent(make, quick(), seed=1)
    other.load_networks(tmp_path / "agent.zip")
    np.testing.assert_array_equal(other.returns(GOALS), agent.returns(GOALS))


def test_merge_paths_are_learnt_through_the_view() -> None:
    """The merging environment itself, seen as any MO-Gymnasium environment."""
    from hm3rl.envs.multi_objective import synthetic_merge_view

    def view() -> gym.Env:
        env = synthetic_merge_view(layers=3, members=2, objectives=2, seed=1)
        return gym.wrappers.TransformObservation(
            env,
            lambda seen: np.append(seen["path"], seen["length"]),
            gym.spaces.Box(0, env.unwrapped.space.pad, shape=(6,), dtype=np.int64),
        )

    problem = view().unwrapped.problem
    agent = DiscreteAgent(view, quick(), seed=0)
    agent.offline(60)
    found = agent.returns(GOALS)
    reached = [problem.normalised(float(v @ g), g) for v, g in zip(found, GOALS, strict=True)]
    assert np.mean(reached) > 0.9


@pytest.mark.parametrize(
    "options",
    [{"scalarisation": "x"}, {"critic": "x"}, {"preferences": "x"}, {"hidden": 0}, {"envs": -1}],
)
def test_settings_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        quick(**options)


def test_faces_are_drawn_as_often_as_the_whole_simplex() -> None:
    rows = sample_faces(4000, 4, np.random.default_rng(0))
    np.testing.assert_allclose(rows.sum(axis=1), 1.0)
    assert (rows >= 0).all()
    positive = (rows > 0).sum(axis=1)
    shares = [np.mean(positive == size) for size in (1, 2, 3, 4)]
    np.testing.assert_allclose(shares, [0.125, 0.125, 0.125, 0.625], atol=0.03)

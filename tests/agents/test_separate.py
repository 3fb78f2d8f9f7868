from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents, load_agent
from hm3rl.surrogate.dataset import Outcome
from tests.agents.test_agent import NAMES, PROBLEM, Budget, quick

PREFERENCES = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])


def separate() -> SeparateAgents:
    spaces = [PROBLEM.space()] * 3
    light = quick(rollouts=4, pretrain_steps=10, distil_steps=10, model_generated=4, replay_steps=1)
    return SeparateAgents.build(spaces, NAMES, light, PREFERENCES)


@pytest.fixture(scope="module")
def trained() -> tuple[SeparateAgents, Budget]:
    agents, budget = separate(), Budget()
    agents.offline(budget, 22, lambda values: None)
    agents.online(budget, 17, lambda values: None)
    return agents, budget


def test_the_budget_is_divided_and_spent_exactly_though_agents_share_what_is_known(
    trained: tuple,
) -> None:
    agents, budget = trained  # `Budget` insists that no path is asked for twice
    assert len(budget.seen) == 39
    sizes = [len(agent.state.dataset) for agent in agents.agents]
    assert sum(sizes) >= 39 and min(sizes) >= 10


def test_every_agent_has_fresh_networks_and_sees_its_own_preference_alone(trained: tuple) -> None:
    agents, _ = trained
    weights = [agent.state.policy.key.weight for agent in separate().agents]
    assert not torch.equal(weights[0], weights[1])
    for agent, preference in zip(agents.agents, PREFERENCES, strict=True):
        seen = agent.state.replay.preferences
        np.testing.assert_allclose(seen, np.tile(preference, (len(seen), 1)), atol=1e-6)


def test_the_nearest_agent_answers_with_its_own_preference(trained: tuple, tmp_path: Path) -> None:
    agents, _ = trained
    asked = np.array([0.15, 0.6, 0.25])
    expected = agents.agents[1].decode(PREFERENCES[1])
    assert agents.decode(asked) == expected
    agents.save(tmp_path / "agent.zip")
    again = load_agent(tmp_path / "agent.zip", quick())
    assert isinstance(again, SeparateAgents)
    assert again.decode(asked) == expected
    np.testing.assert_array_equal(again.preferences, PREFERENCES)


def test_one_agent_is_loaded_as_one(tmp_path: Path) -> None:
    MergeAgent.fresh(PROBLEM.space(), NAMES, quick()).save(tmp_path / "agent.zip")
    assert isinstance(load_agent(tmp_path / "agent.zip", quick()), MergeAgent)


def test_what_is_absorbed_is_known_to_all() -> None:
    agents = separate()
    path = agents.agents[0].space.decode(agents.agents[0].space.whole(0))
    agents.absorb([path], [Outcome(np.ones(3), np.ones(3))])
    assert [len(agent.state.dataset) for agent in agents.agents] == [1, 1, 1]

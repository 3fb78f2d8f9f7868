"""A prior, from the tables of pools to an agent that begins with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.agents.pareto_set import ParetoSetAgent
from hm3rl.agents.prior import Prior
from hm3rl.config.agents import PslSettings
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.utility import Utility
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.surrogate.dataset import Outcome
from hm3rl.surrogate.pool_table import write_tables
from tests.surrogate.test_score_prior import DEPTH, POOLS, world

SAID: list[str] = []


@pytest.fixture(scope="module")
def prior() -> Prior:
    return Prior.learn(POOLS, without={"t0"}, say=SAID.append)


@pytest.fixture(scope="module")
def file(prior: Prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prior") / "prior.zip"
    prior.save(path)
    return path


def test_its_error_is_that_of_tasks_left_out(prior: Prior) -> None:
    assert 0.005 < prior.scores.error < 0.15
    assert [line.split(":")[0] for line in SAID] == [f"t{i}" for i in range(1, 8)]


def test_its_policy_serves_preferences_in_pools_it_never_saw(prior: Prior) -> None:
    table = world(70, experts=3)
    goals = sample_dirichlet(30, 3, np.random.default_rng(0))
    answers = prior.policy(torch.as_tensor(goals), torch.as_tensor(table.sources), DEPTH, 1.0)
    utility = Utility.of(PslSettings())
    own = prior.scores.of_pool(table.sources)(answers).numpy()
    equal = prior.policy(
        torch.full((1, 3), 1 / 3, dtype=torch.float64), torch.as_tensor(table.sources), DEPTH, 1.0
    )
    same = prior.scores.of_pool(table.sources)(equal).numpy()
    # A preference changes the answer, and for the better.
    assert utility(own, 0, goals).mean() > utility(same, 0, goals).mean() + 0.01


def test_what_is_saved_is_what_is_read(prior: Prior, file: Path) -> None:
    read = Prior.load(file)
    assert set(read.tasks) == {f"t{i}" for i in range(1, 8)}  # and nothing of the task left out
    assert read.tasks == prior.tasks and read.scores.error == prior.scores.error
    table = world(71, experts=2)
    blends = torch.as_tensor(table.blends)
    torch.testing.assert_close(
        read.scores.of_pool(table.sources)(blends), prior.scores.of_pool(table.sources)(blends)
    )


def test_evaluations_alone_are_no_prior(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables.zip", POOLS[:1])
    with pytest.raises(InputError, match="pretrain"):
        Prior.load(tmp_path / "tables.zip")
    other = {"prior/scores/networks.0.head.0.weight": np.zeros((2, 2))}
    write_tables(tmp_path / "old.zip", POOLS[:1], other)
    with pytest.raises(InputError, match="learn again"):
        Prior.load(tmp_path / "old.zip")
    settings = RunSettings(agent=PslSettings(prior=str(tmp_path / "none.zip")))
    with pytest.raises(InputError, match=r"none\.zip"):
        ParetoSetAgent.check(settings, began=False)


def test_one_task_is_not_enough() -> None:
    with pytest.raises(InputError, match="tasks"):
        Prior.learn(POOLS, without={f"t{i}" for i in range(7)})


def agent_in(pool: int, prior: Path | None, **options: object) -> ParetoSetAgent:
    table = world(pool, experts=3)
    space = BlendSpace(tuple(table.experts), DEPTH)
    settings = RunSettings(
        agent=PslSettings(prior=str(prior or ""), **options),  # type: ignore[arg-type]
        seed=0,
    )
    agent = ParetoSetAgent.fresh(space, table.tasks, settings)
    own = [space.decode(blend) for blend in table.blends[:4]]
    agent.absorb(own, [Outcome(vector, -vector) for vector in table.vectors[:4]])
    return agent


def test_it_begins_with_proposals_instead_of_a_design(file: Path, tmp_path: Path) -> None:
    makers: list[str] = []

    def evaluate(paths: list, chosen_by: tuple[str, ...] = ()) -> list[Outcome]:  # type: ignore[type-arg]
        makers.extend(chosen_by)
        return [Outcome(np.full(3, 0.5), np.full(3, -0.5)) for _ in paths]

    agent = agent_in(72, file, first_steps=20, steps=5)
    agent.online(evaluate, 8, lambda values: None)
    assert "policy" in makers
    agent.save(tmp_path / "agent.zip")
    # The file may be gone by then: an agent carries what it knows.
    settings = RunSettings(agent=PslSettings(prior="gone.zip"), seed=0)
    read = ParetoSetAgent.load(tmp_path / "agent.zip", settings)
    goal = np.array([0.5, 0.25, 0.25])
    assert read.decode(goal) == agent.decode(goal)


def test_sources_without_a_score_are_named(file: Path) -> None:
    agent = agent_in(73, file)
    agent.blends, agent.vectors = agent.blends[1:], agent.vectors[1:]
    with pytest.raises(InputError, match=r"agent\.prior"):
        agent.propose(4)

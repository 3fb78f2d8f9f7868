"""A search on the shipped zoo with few items: a candidate takes hundredths of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.common.plan import understood
from hm3rl import api
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.events import NullLogger
from hm3rl.run.build import build_problem
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import SearchResult

TASKS = ("translation", "math", "code")
FEW_ITEMS = [
    *(f"tasks.{task}.{split}_items=24" for task in TASKS for split in ("search", "test")),
    "agent.pretrain_steps=30",
    "agent.distil_steps=30",
    "agent.replay_steps=2",
    "agent.acquisition.proposals=120",
    "agent.model_generated=8",
    "surrogate.fit_steps=8",
    "search.parameter.members=2",
]
QUICK = ("search.samples=4", "search.restarts=1", "search.steps=2", "search.generations=2")


def few_items(*overrides: str) -> tuple[str, ...]:
    """Overrides with those that make a search small, as far as its searcher has them."""
    return (*understood(overrides, (*FEW_ITEMS, *QUICK)), *overrides)


@pytest.fixture
def problem(tmp_path: Path) -> MergeProblem:
    settings = api.settings(*few_items("budget=30"))
    prepared = build_problem(settings, tmp_path / "evaluations.sqlite", NullLogger())
    prepared.prepare()
    return prepared


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SearchResult]:
    """Runs a search once for the whole session; further calls get the same run."""
    root = tmp_path_factory.mktemp("runs")
    done: dict[tuple[str, ...], SearchResult] = {}

    def run(*overrides: str) -> SearchResult:
        if overrides not in done:
            output = root / f"{len(list(root.iterdir()))}"
            done[overrides] = api.search(*few_items(*overrides, f"output={output}"))
        return done[overrides]

    return run


@pytest.fixture
def finished(searched: Callable[..., SearchResult]) -> FinishedRun:
    return api.open_run(searched("budget=20").folder.path)

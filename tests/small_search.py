"""A search on the shipped zoo with few items: a candidate takes hundredths of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
    "agent.screening.proposals=120",
    "agent.imagined=8",
    "agent.outcome.fit_steps=8",
    "search.parameter.members=2",
    *(f"search.mm_mo.{key}" for key in ("samples=4", "restarts=1", "steps=2")),
]


@pytest.fixture
def problem(tmp_path: Path) -> MergeProblem:
    settings = api.settings(*FEW_ITEMS, "budget=30")
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
            done[overrides] = api.search(*FEW_ITEMS, *overrides, f"output={output}")
        return done[overrides]

    return run


@pytest.fixture
def finished(searched: Callable[..., SearchResult]) -> FinishedRun:
    return api.open_run(searched("budget=20").folder.path)

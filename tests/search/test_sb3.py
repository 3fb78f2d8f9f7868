"""Searches whose agent is an algorithm of Stable-Baselines3: same problem, budget and folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hm3rl import api
from hm3rl.cli import app
from hm3rl.errors import InputError
from tests.small_search import few_items


def decisions(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "evaluations.csv").open() as stream:
        rows = csv.DictReader(stream)
        return [(row["evaluations"], row["phase"], row["key"]) for row in rows]


DQN = ("agent=sb3", "agent.algorithm=DQN", "agent.kwargs.learning_rate=1e-3")


@pytest.mark.parametrize(
    ("words", "phases"),
    [
        (DQN, {"parameter", "offline", "online"}),
        (("agent=sb3", "agent.algorithm=SAC", "agent.kwargs.learning_starts=16"), {"online"}),
    ],
    ids=["DQN", "SAC"],
)
def test_an_algorithm_searches_and_is_picked_from(
    words: tuple[str, ...], phases: set[str], searched
):
    result = searched("budget=20", *words)
    assert result.problem.used == 20 == len(result.problem.trace)
    assert {phase for _, phase, _ in decisions(result.folder.path)} == {"sources", *phases}
    made = set(result.problem.chosen_by) - {"parameter"}
    assert made and made <= {"rollout", "random"}
    run = api.open_run(result.folder.path)
    assert run.settings.agent.kwargs == result.agent.options.kwargs
    choice = api.pick(run, {"math": 2, "code": 1}, evaluate=False)
    assert choice.origin == "agent"
    better = api.pick(run, {"math": 2, "code": 1}, budget=2)
    assert better.utility >= better.front_utility - 1e-9


def test_a_run_that_goes_on_decides_as_before(tmp_path: Path):
    words = few_items("budget=12", *DQN, f"output={tmp_path / 'run'}")
    api.search(*words)
    before = decisions(tmp_path / "run")
    api.search(f"resume={tmp_path / 'run'}", "budget=15")
    after = decisions(tmp_path / "run")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 3


def test_arguments_are_read_from_the_command_line_and_refused_there():
    settings = api.settings(*DQN, "agent.kwargs.policy_kwargs.net_arch=[8,8]")
    assert settings.agent.kwargs == {
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [8, 8]},
    }
    refused = CliRunner().invoke(app, ["check", *DQN, "agent.kwargs.gama=1"])
    assert refused.exit_code == 2
    assert "did you mean agent.kwargs.gamma" in refused.output
    with pytest.raises(InputError, match=r"agent\.argorithm"):
        api.settings("agent=sb3", "agent.argorithm=DQN")


def test_arguments_can_be_swept_over(tmp_path: Path):
    words = few_items("agent=sb3", "agent.algorithm=A2C", "budget=4", "search=architecture_only")
    rates = "agent.kwargs.learning_rate=1e-3,1e-2"
    done = CliRunner().invoke(
        app, ["search", "-m", *words, rates, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    )
    assert done.exit_code == 0, done.output
    runs = [api.open_run(tmp_path / "sweep" / job) for job in "01"]
    assert [run.settings.agent.kwargs["learning_rate"] for run in runs] == [1e-3, 1e-2]
    assert json.loads((tmp_path / "sweep" / "0" / "summary.json").read_text())["evaluations"] == 4

"""From finished runs to a prior, and to a search that begins with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hm3rl import api
from hm3rl.agents.prior import Prior
from hm3rl.cli import app
from hm3rl.errors import InputError
from hm3rl.run.job import SearchResult
from hm3rl.run.pretrain import table_of_run
from hm3rl.surrogate import score_prior

WORDS = ("agent=psl", "budget=16", "agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_prior, "STEPS", 60)


def test_a_run_is_a_table(searched: Callable[..., SearchResult]) -> None:
    run = api.open_run(searched(*WORDS).folder.path)
    table = table_of_run(run)
    assert tuple(table.experts) == ("translation", "math", "code")
    assert table.tasks == run.objectives
    # Base, experts, and all that was evaluated.
    assert len(table.blends) == 4 + 16 == len(run.candidates)
    np.testing.assert_allclose(np.diag(table.sources[1:]), 1.0)
    assert dict(table.experts).items() <= run.folder.read_environment()["sources"].items()


def test_layers_of_members_are_blends_where_they_can_be(
    searched: Callable[..., SearchResult],
) -> None:
    run = api.open_run(searched("search=parameter_only", "budget=12").folder.path)
    assert len(table_of_run(run).blends) == 4 + 12


def test_a_search_begins_with_what_a_run_taught(
    searched: Callable[..., SearchResult], tmp_path: Path
) -> None:
    folder, file = searched(*WORDS).folder.path, tmp_path / "prior.zip"
    found = CliRunner().invoke(app, ["pretrain", str(folder), "--to", str(file)])
    assert found.exit_code == 0, found.output
    assert "agent.prior" in found.output and "20 models of 1 pools" in found.output
    result = searched(*WORDS, f"agent.prior={file}", "budget=8")
    assert result.summary["chosen_by"]["policy"] > 0
    # An earlier prior is a source like any run.
    twice = api.pretrain([file, result.folder.path], tmp_path / "both.zip", without=["code"])
    assert [len(table.blends) for table in twice.tables] == [20, 12]
    assert Prior.load(tmp_path / "both.zip").scores.error == pytest.approx(twice.scores.error)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        api.pretrain([tmp_path], tmp_path / "prior.zip")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(InputError, match=r"text\.zip"):
        api.pretrain([tmp_path / "text.zip"], tmp_path / "prior.zip")

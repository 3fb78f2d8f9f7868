"""How a search ends when something outside it fails."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from hm3rl.errors import IntegrityError, MachineError
from hm3rl.evaluation.causes import DeviceError
from hm3rl.files import RunFolder
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import resumable


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        sqlite3.OperationalError("database is locked"),
        MemoryError(),
        RuntimeError("CUDA error: unspecified launch failure"),
        MachineError("a worker was lost"),
        IntegrityError("the store is damaged"),
    ],
)
def test_what_the_machine_fails_leaves_with_the_way_to_go_on(tmp_path: Path, error: Exception):
    folder = RunFolder(tmp_path)
    folder.config.touch()
    with pytest.raises((MachineError, IntegrityError)) as caught, resumable(folder):
        raise error
    (note,) = caught.value.__notes__
    assert note.endswith(f"hm3rl search resume={tmp_path}")
    assert isinstance(caught.value, DeviceError) == ("CUDA" in str(error))


def test_a_fault_of_the_program_is_shown_as_it_is_and_without_a_run_there_is_nothing_to_resume(
    tmp_path: Path,
):
    with pytest.raises(RuntimeError, match="shapes"), resumable(RunFolder(tmp_path)):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(MachineError) as caught, resumable(RunFolder(tmp_path)):
        raise OSError(28, "No space left on device")
    assert not hasattr(caught.value, "__notes__")


def test_uniform_blends_are_scored_beside_archive_and_budget(finished: FinishedRun):
    references = finished.summary["references"]
    assert list(references) == ["uniform 0.3", "uniform 0.5", "uniform 1"]
    for one in references.values():
        assert len(one["search"]) == len(one["test_se"]) == len(finished.objectives)
        assert one["key"] not in finished.archive.keys
    assert finished.summary["evaluations"] == 20
    text = finished.folder.leaderboard.read_text()
    assert f"| *uniform 1* | {references['uniform 1']['search'][0]:.3f} |" in text
    assert "| uniform blend |" in text
    facts = json.loads(finished.folder.mergeability.read_text())
    assert facts["experts"] == ["translation", "math", "code"]
    assert len(facts["places"]) == len(facts["conflicts"]) == 9

"""Scratch folders go with their process, also with one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hm3rl.errors import MachineError
from hm3rl.tasks.sandbox import SandboxPool
from hm3rl.tasks.scratch import ScratchFolder, clear_abandoned

HOLD = """
import sys, tempfile, time
from hm3rl.tasks.scratch import ScratchFolder
print(ScratchFolder("scratch-").name, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_killed_processs_folder_is_removed_by_the_next_one(temporary: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other, other.stdout:
        theirs = Path(other.stdout.readline().strip())
        assert theirs.parent == temporary
        mine = ScratchFolder("scratch-")
        assert theirs.is_dir()  # its process lives
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert theirs.is_dir()
    assert clear_abandoned("scratch-") == 1
    assert not theirs.exists() and Path(mine.name).is_dir()
    mine.cleanup()
    mine.cleanup()
    assert os.listdir(temporary) == []


def test_what_is_not_an_empty_folder_of_this_kind_stays(temporary: Path) -> None:
    (temporary / "scratch-full").mkdir()
    (temporary / "scratch-full" / "file").write_text("somebody's")
    (temporary / "scratch-file").write_text("somebody's")
    (temporary / "other-empty").mkdir()
    assert clear_abandoned("scratch-") == 0
    assert len(os.listdir(temporary)) == 3


def test_a_closed_sandbox_leaves_nothing(temporary: Path) -> None:
    with SandboxPool() as pool:
        assert pool.run(["def f(x):\n    return x\n"], [(("f(1)", "1"),)]) == [1.0]
        assert len(os.listdir(temporary)) == 1
    assert os.listdir(temporary) == []


def test_a_folder_that_somebody_removed_is_no_trouble(temporary: Path) -> None:
    folder = ScratchFolder("scratch-")
    os.rmdir(folder.name)
    folder.cleanup()
    assert os.listdir(temporary) == []


def test_a_sandbox_without_a_folder_is_the_machines_failure(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    with pytest.raises(MachineError, match="has no folder"):
        SandboxPool()

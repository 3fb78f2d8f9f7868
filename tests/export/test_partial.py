"""Folders in work: renamed when whole, kept when a check failed, cleared after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hm3rl.errors import IntegrityError
from hm3rl.export.partial import partial_folder, remove_leavings

WRITER = """
import sys, time
from pathlib import Path
from hm3rl.export.partial import partial_folder
with partial_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_work_going_on_is_not(tmp_path):
    target = tmp_path / "model[1]"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        remove_leavings(target)
        (left,) = tmp_path.iterdir()
        assert left.name.startswith(".model[1].partial-")
        writer.kill()
        writer.wait()
    (tmp_path / ".other.partial-1").mkdir()
    remove_leavings(target)
    assert [path.name for path in tmp_path.iterdir()] == [".other.partial-1"]


def test_a_folder_whose_check_failed_is_kept_and_named(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(IntegrityError) as caught, partial_folder(target) as folder:
        (folder / "weights").write_text("wrong")
        raise IntegrityError(f"{folder} is wrong")
    (kept,) = tmp_path.iterdir()
    assert kept.name == f".model.failed-{os.getpid()}"
    assert str(caught.value) == f"{kept} is wrong"
    remove_leavings(target)
    assert (kept / "weights").is_file()


def test_the_next_export_into_that_place_clears_it(tiny_pool, tmp_path):
    from hm3rl.export.checkpoint import export_candidate
    from hm3rl.paths.candidate import Candidate
    from hm3rl.paths.members import MemberSet

    (tmp_path / ".model.partial-1").mkdir()
    export_candidate(Candidate.whole("a", 3), MemberSet(tiny_pool), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

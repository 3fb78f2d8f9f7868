from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.runs import (
    RunFolder,
    RunLock,
    checked_out,
    describe_environment,
    peak_memory,
    write_csv,
    write_text,
)


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with RunLock(folder):
        with pytest.raises(InputError, match="another process is writing"):
            RunLock(folder).__enter__()
    with RunLock(folder):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / ".lock").mkdir()  # as good as read-only, also for root
    with pytest.raises(InputError, match="cannot be written") as caught:
        RunLock(RunFolder(tmp_path)).__enter__()
    assert "output=" in caught.value.remedy


def test_writing_replaces_the_whole_file_or_nothing(tmp_path: Path):
    target = tmp_path / "a.txt"
    write_text(target, "one")
    write_text(target, "two")
    assert target.read_text() == "two"
    assert list(tmp_path.iterdir()) == [target]


def test_csv_rows_come_back(tmp_path: Path):
    write_csv(tmp_path / "a.csv", ["x", "y"], [[1, "a,b"]])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n1,"a,b"\n'


def test_the_environment_names_versions_and_sources():
    described = describe_environment({"base": "abc"}, {"code": {"programs": "limits"}})
    assert described["tasks"] == {"code": {"programs": "limits"}}
    assert described["sources"] == {"base": "abc"}
    assert described["versions"]["torch"].startswith("2.")


def test_the_commit_of_a_checkout_is_known_and_whether_its_package_was_changed(tmp_path: Path):
    assert checked_out(tmp_path) is None
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "hm3rl").mkdir()
    code = tmp_path / "hm3rl" / "a.py"
    code.write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "notes.txt").write_text("beside the package\n")
    commit = checked_out(tmp_path)
    assert commit is not None and len(commit) == 40
    code.write_text("x = 2\n")
    assert checked_out(tmp_path) == commit + "+"


def test_the_peak_of_memory_is_that_of_this_process():
    before = peak_memory()
    held = bytearray(b"x") * before
    assert peak_memory() > len(held) == before

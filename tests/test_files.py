from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.files import (
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


SUMMARY = {"objectives": ["math"], "z_star": {}, "sources": {}, "hypervolume": {}, "evaluations": 4}
LINE = {"key": "a", "failed": False, "scores": {"math": 0.5}, "candidate": {}, "evaluations": 1}
FRONT = "name,key,on_test_front,path\nM00,a,1,math | math[0:8]\n"
ROWS = "evaluations,phase,key,hypervolume\n0,sources,a,0.1\n4,online,b,0.2\n"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with files that say little."""
    made = RunFolder(tmp_path / "run")
    made.path.mkdir()
    made.config.write_text("name: run\n")
    made.summary.write_text(json.dumps(SUMMARY))
    made.environment.write_text(json.dumps({"sources": {"math": "0" * 64}}))
    made.front.write_text(FRONT)
    made.evaluations.write_text(ROWS)
    made.archive.write_text(json.dumps(LINE) + "\n")
    return made


def test_whole_files_are_read(folder: RunFolder):
    assert RunFolder.finished(folder.path).read_summary() == SUMMARY
    assert folder.read_environment()["sources"]["math"] == "0" * 64
    assert [row["name"] for row in folder.read_front()] == ["M00"]
    assert [row["evaluations"] for row in folder.read_evaluations()] == ["0", "4"]
    assert folder.read_archive() == [LINE]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary", '{"objectives": ["ma'),
        ("summary", "{}"),
        ("environment", "[]"),
        ("front", "name,key\nM0"),
        ("front", FRONT + "M01,b"),
        ("evaluations", ""),
        ("archive", json.dumps(LINE) + '\n{"key": "b", "sco'),
        ("archive", '{"key": "a"}\n'),
        ("archive", ""),
        ("archive", None),
        ("front", None),
        ("environment", None),
    ],
)
def test_a_damaged_or_missing_file_is_named_with_the_way_to_write_it_again(
    folder: RunFolder, name: str, damage: str | None
):
    file: Path = getattr(folder, name)
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    with pytest.raises(InputError) as refused:
        getattr(folder, f"read_{name}")()
    assert str(file) in refused.value.what
    assert f"resume={folder.path}" in refused.value.remedy


def test_what_was_used_is_known_of_a_killed_run_whatever_is_left(folder: RunFolder):
    assert folder.used() == 4
    folder.evaluations.write_text("evaluations,phase,key,hypervolume\n2.5,online,b,0.2\n3.2")
    assert folder.used() == 3.2
    folder.evaluations.unlink()
    folder.archive.write_text(json.dumps(LINE | {"evaluations": 2}) + "\n{")
    assert folder.used() == 2
    folder.archive.unlink()
    assert folder.used() == 0


def test_a_run_that_begins_anew_keeps_what_it_asked_until_it_has_ended(folder: RunFolder):
    both = [LINE, LINE | {"key": "b"}]
    folder.archive.write_text("\n".join(map(json.dumps, both)) + '\n{"key": "c", "fai')
    assert folder.begin_anew() == both
    folder.archive.write_text(json.dumps(LINE | {"evaluations": 7}) + "\n")  # and killed
    assert folder.begin_anew() == [LINE | {"evaluations": 7}, both[1]]
    folder.settle()
    assert folder.begin_anew() == [LINE | {"evaluations": 7}]


def test_a_folder_where_nothing_can_be_written_is_refused(tmp_path: Path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        RunLock(RunFolder(tmp_path / "run")).__enter__()

from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.runs import RunFolder, RunLock, describe_environment, write_csv, write_text


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path):
    folder = RunFolder(tmp_path)
    with RunLock(folder):
        with pytest.raises(InputError, match="another process is writing"):
            RunLock(folder).__enter__()
    with RunLock(folder):
        pass


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

from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.settings import config_folder
from tests.small_search import FEW_ITEMS

FILES = sorted((config_folder() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_committed_experiment_runs_in_a_shrunk_form(file: Path, tmp_path: Path):
    words = [f"experiment={file.stem}", *FEW_ITEMS, "budget=6", f"output={tmp_path / 'run'}"]
    result = api.search(*words)
    assert result.summary["charged"] == 6
    assert (
        result.summary["hypervolume"]["search"] >= result.summary["hypervolume"]["sources_search"]
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_file_begins_with_its_command(file: Path):
    package, command, *_ = file.read_text().splitlines()
    assert package == "# @package _global_"
    assert command.startswith("# hm3rl search") and f"experiment={file.stem}" in command

from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.config.schema import config_folder
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import InputError
from hm3rl.models.zoo import resolve_source
from tests.small_search import FEW_ITEMS, TASKS

FILES = sorted((config_folder() / "experiment").glob("*.yaml"))
# 135M parameters take seconds a candidate, and in bf16 minutes where a CPU has no instructions
# for it: few items, in float32.
PRETRAINED = {
    "smollm2": [
        "pool.dtype=float32",
        *(f"tasks.{task}.{split}_items=2" for task in TASKS for split in ("search", "test")),
    ]
}


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[pytest.mark.slow] if file.stem in PRETRAINED else [])
        for file in FILES
    ],
    ids=lambda file: file.stem,
)
def test_every_committed_experiment_runs_in_a_shrunk_form(file: Path, tmp_path: Path):
    try:
        settings = api.settings(f"experiment={file.stem}")
        pool = settings.pool
        for source in (pool.base, *pool.experts.values()):
            resolve_source(source, pool.smollm2_adapters)
    except InputError as error:
        pytest.skip(str(error))
    smaller = [word for word in FEW_ITEMS if not word.startswith("tasks.")]
    smaller += [
        f"tasks.{name}.{split}_items=24"
        for name, task in settings.tasks.items()
        for split in ("search", "test")
        if isinstance(task, SizedTaskSettings)
    ]
    smaller += PRETRAINED.get(file.stem, [])
    words = [f"experiment={file.stem}", *smaller, "budget=6", f"output={tmp_path / 'run'}"]
    result = api.search(*words)
    assert result.summary["evaluations"] == 6
    assert (
        result.summary["hypervolume"]["search"] >= result.summary["hypervolume"]["sources_search"]
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_experiment_file_begins_with_its_command(file: Path):
    package, command, *_ = file.read_text().splitlines()
    assert package == "# @package _global_"
    assert command.startswith("# hm3rl search") and f"experiment={file.stem}" in command

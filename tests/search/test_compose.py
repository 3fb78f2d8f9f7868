from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.runs import RunFolder, write_text
from hm3rl.search.compose import (
    compose_settings,
    resume_settings,
    settings_of_run,
    to_dict,
    to_yaml,
)


def test_the_default_is_hm3_on_the_zoo():
    settings = compose_settings([])
    assert settings.search.name == "hm3"
    assert list(settings.tasks) == ["translation", "math", "code"]
    assert list(settings.pool.experts) == ["translation", "math", "code"]


def test_an_experiment_file_lists_only_what_differs():
    tiny = to_dict(compose_settings(["experiment=tiny"]))
    default = to_dict(compose_settings([]))
    differs = {key for key in tiny if tiny[key] != default[key]}
    assert differs == {"name", "budget", "threads", "export"}


def test_the_command_line_beats_the_experiment_file():
    assert compose_settings(["experiment=tiny", "budget=7"]).budget == 7


def test_own_config_files_are_found_on_the_search_path(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    write_text(
        tmp_path / "experiment" / "mine.yaml",
        "# @package _global_\ndefaults:\n  - override /pool: own\nname: mine\n"
        "pool: {base: b, experts: {x: y}}\n",
    )
    settings = compose_settings([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert settings.name == "mine"
    assert settings.pool.experts == {"x": "y"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    write_text(folder.config, to_yaml(compose_settings(["seed=3", "budget=40", "agent.batch=5"])))
    return folder


def test_a_run_folder_gives_its_settings_back(run: RunFolder):
    settings = settings_of_run(run)
    assert (settings.seed, settings.budget, settings.agent.batch) == (3, 40, 5)


def test_resume_takes_the_runs_own_settings(run: RunFolder):
    resumed = resume_settings([f"resume={run.path}", "budget=80"])
    assert resumed is not None
    settings, folder = resumed
    assert (settings.seed, settings.budget, settings.output) == (3, 80, str(run.path))
    assert folder.path == run.path


def test_resume_refuses_to_change_anything_but_the_budget(run: RunFolder):
    with pytest.raises(InputError, match="seed"):
        resume_settings([f"resume={run.path}", "seed=4"])


def test_nothing_is_resumed_unless_asked():
    assert resume_settings(["seed=4"]) is None


def test_resuming_a_folder_that_is_no_run_names_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"config\.yaml"):
        resume_settings([f"resume={tmp_path}"])
    with pytest.raises(InputError, match="no such run folder"):
        resume_settings([f"resume={tmp_path / 'gone'}"])


@pytest.mark.parametrize("text", ["[1]", "x", "tasks: null", "seed: many", "[" * 2000])
def test_a_damaged_configuration_of_a_run_is_named(run: RunFolder, text: str):
    write_text(run.config, text)
    with pytest.raises(InputError, match=r"cannot read .*config\.yaml"):
        settings_of_run(run)

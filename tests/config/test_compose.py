from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.config.compose import (
    compose_settings,
    resume_settings,
    settings_of_run,
    to_dict,
    to_yaml,
)
from hm3rl.errors import InputError
from hm3rl.files import RunFolder, write_text
from hm3rl.run.init import write_config
from hm3rl.run.job import open_folder


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


@pytest.mark.parametrize("text", ["", "name: run\n", "pool: {base: [", "- a\n", "pool"])
def test_a_damaged_config_is_no_run_of_defaults(run: RunFolder, text: str):
    run.config.write_text(text)
    with pytest.raises(InputError, match="damaged") as refused:
        settings_of_run(run)
    assert f"evaluation.store={run.store}" in refused.value.remedy


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


@pytest.fixture
def preferring(tmp_path: Path) -> list[str]:
    """Words of an experiment that exports a model at the end."""
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(
        "# @package _global_\ndefaults:\n  - override /tasks: zoo\n"
        "export:\n  prefer: {math: 2, code: 1}\n"
    )
    return ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]


@pytest.mark.parametrize(
    ("words", "prefer"),
    [
        ([], {"math": 2, "code": 1}),
        (["export.prefer={}"], {}),
        (["export.prefer={}", "+export.prefer.translation=3"], {"translation": 3}),
        (["+export.prefer.translation=3", "export.prefer={}"], {}),
    ],
)
def test_an_empty_mapping_takes_out_what_an_experiment_put_in(
    preferring: list[str], words: list[str], prefer: dict[str, float]
):
    assert compose_settings([*preferring, *words]).export.prefer == prefer
    # Wherever it stands in the line, groups come before values.
    if words == ["export.prefer={}"]:
        assert compose_settings([*words, *preferring]).export.prefer == prefer


def test_an_empty_mapping_empties_any_mapping():
    assert compose_settings(["pool.experts={}", "+pool.experts.m=zoo:math"]).pool.experts == {
        "m": "zoo:math"
    }
    with pytest.raises(InputError, match="in a sweep"):
        api.sweep(["export.prefer={}", "seed=0,1"])


@pytest.mark.parametrize("name", ["../../x", "a/b", "a\\b", ".."])
def test_a_name_that_would_lead_elsewhere_is_refused(name: str, tmp_path: Path):
    with pytest.raises(InputError, match="name="):
        compose_settings([f"name='{name}'"])
    settings = compose_settings([f"root={tmp_path}"])
    settings.name = name
    with pytest.raises(InputError, match="name="):
        open_folder(settings, resumed=False)
    with pytest.raises(InputError, match="--name "):
        write_config(tmp_path, name, "zoo:base", [], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run", "my run", "häuser.2"])
def test_any_other_name_is_a_folder(name: str, tmp_path: Path):
    settings = compose_settings([f"name='{name}'", f"root={tmp_path}"])
    assert open_folder(settings, resumed=False).path == tmp_path / f"{name}-seed0"


@pytest.mark.parametrize("text", ["[1]", "x", "tasks: null", "seed: many", "[" * 2000])
def test_a_damaged_configuration_of_a_run_is_named(run: RunFolder, text: str):
    write_text(run.config, text)
    with pytest.raises(InputError, match=r"cannot read .*config\.yaml|config\.yaml is damaged"):
        settings_of_run(run)

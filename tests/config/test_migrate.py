"""Runs of version 0.1 open with the settings that the same words give today.

The files in data/ are config.yaml of runs as version 0.1 wrote them, every key of it included.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from hm3rl import registry
from hm3rl.config.compose import compose_settings, from_plain, settings_of_run, to_dict, to_yaml
from hm3rl.config.migrate import PARTS_OF_SEARCH, migrated
from hm3rl.config.schema import RunSettings
from hm3rl.config.tasks import ZOO_SPLIT, SplitSettings
from hm3rl.errors import InputError
from hm3rl.files import RunFolder
from hm3rl.run.build import check_settings

DATA = Path(__file__).parent / "data"
WORDS = {
    "hm3": [
        *("surrogate=linear", "surrogate.fit_steps=9", "agent.model_generated=5"),
        *("agent.acquisition.function=utility", "search.offline_share=0.3"),
        *("search.parameter.sampler=mm_mo", "search.parameter.mm_mo.batch=3"),
        *("budget=41", "seed=7"),
    ],
    # Defaults of then are in their files; these two have changed since.
    "cmaes": ["search=cmaes", "search.groups=4", "search.generations=2"],
    "nsga2_paths": [
        *("search=nsga2_paths", "search.population=8", "search.levels=paths", "paths=any"),
        *("+tasks.length.kind=path_length", "tasks.length.worst=9"),
    ],
    "mm_mo": ["search=mm_mo", "search.initial=6", "search.fisher=false", "search.samples=16"],
}


def old(name: str = "hm3") -> dict[str, Any]:
    loaded = yaml.safe_load((DATA / f"version_0_1_{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", WORDS)
def test_a_run_of_version_0_1_has_the_settings_of_the_same_words(name: str, tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.config.write_text((DATA / f"version_0_1_{name}.yaml").read_text())
    assert settings_of_run(folder) == compose_settings(WORDS[name])


@pytest.mark.parametrize("name", WORDS)
def test_what_this_version_wrote_comes_back_as_it_is(name: str, tmp_path: Path):
    settings = compose_settings(WORDS[name])
    assert migrated(to_dict(settings)) == to_dict(settings)
    RunFolder(tmp_path).config.write_text(to_yaml(settings))
    assert settings_of_run(RunFolder(tmp_path)) == settings
    assert migrated(migrated(old(name))) == migrated(old(name))


@pytest.mark.parametrize("name", registry.SHIPPED["searcher"])
def test_every_searcher_keeps_the_options_that_it_read(name: str):
    """Every number that it kept under a key of its own, and those of the parameter level."""
    stored = old()
    stored["search"]["name"] = name
    stored["search"]["parameter"]["members"] = 5
    part = PARTS_OF_SEARCH.get(name)
    own = stored["search"][part] if part else {}
    own.update({key: value + 1 for key, value in own.items() if type(value) is int})
    search = from_plain(migrated(stored)).search
    assert type(search) is registry.find("searcher", name).options_type()
    assert {key: getattr(search, key) for key in own} == own
    if "parameter" in {one.name for one in fields(search)}:
        assert search.parameter.members == 5 and search.parameter.mm_mo.batch == 3


def test_a_task_loses_what_its_kind_never_read():
    stored = old()
    stored["tasks"]["math"]["metric"] = "chrf"  # version 0.1 took it from runs that began
    stored["tasks"]["own"] = {**stored["tasks"]["math"], "kind": "jsonl", "path": "x.jsonl"}
    settings = from_plain(migrated(stored))
    assert vars(settings.tasks["math"]).keys() == {
        *("kind", "role", "max_new_tokens", "search_items", "test_items")
    }
    assert (settings.tasks["own"].path, settings.tasks["own"].metric) == ("x.jsonl", "chrf")
    settings.search = RunSettings().search  # another searcher may need an extra
    check_settings(settings, began=True)


def test_a_run_of_before_keeps_the_shares_of_its_items(tmp_path: Path):
    stored = old()
    stored["tasks"]["own"] = {"kind": "jsonl", "path": "x.jsonl"}
    stored["tasks"]["arc"] = {"kind": "lm_eval", "lm_eval": "arc_easy"}
    tasks = from_plain(migrated(stored)).tasks
    assert tasks["own"].split == tasks["arc"].split == ZOO_SPLIT
    # One of today has its own, and keeps it when it is read again.
    words = ["+tasks.own.kind=jsonl", "+tasks.arc.kind=lm_eval", "tasks.arc.split.search=70"]
    settings = compose_settings([*words, "tasks.arc.split.test=30"])
    assert settings.tasks["own"].split == SplitSettings(search=60, test=40)
    RunFolder(tmp_path).config.write_text(to_yaml(settings))
    again = settings_of_run(RunFolder(tmp_path)).tasks
    assert again == settings.tasks and again["arc"].split == SplitSettings(search=70, test=30)


def test_a_part_that_is_gone_is_named():
    stored = old()
    stored["search"]["name"] = "gone"
    with pytest.raises(InputError, match="unknown searcher 'gone'"):
        from_plain(migrated(stored))


def test_a_run_on_smollm2_finds_its_adapters_where_they_were():
    pool = {"base": "smollm2:base", "experts": {"math": "smollm2:math"}}
    found = migrated({"pool": pool})["pool"]
    assert found["smollm2_adapters"] == "experiments/smollm2/adapters"
    assert migrated({"pool": found}) == {"pool": found}
    own = {"pool": {"experts": {"m": "zoo:math"}}}
    assert migrated(own) == own

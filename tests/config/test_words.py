from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl.config.compose import compose_settings, sweep_words
from hm3rl.config.words import search_path
from hm3rl.errors import InputError
from hm3rl.files import write_text


@pytest.mark.parametrize(
    ("override", "what", "remedy"),
    [
        ("tasks=null", "tasks=null", "choose one of long_to_short, own, "),
        ("pool=[null]", "pool=", "choose one of long_to_short, own, "),
        ("agent=1", "agent=1", "choose one of hm3, "),
        ("evaluation=null", "evaluation=null", "evaluation.KEY=VALUE"),
        ("hydra.run.dir=x", "hydra.run.dir", "output=FOLDER"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir", "-m"),
        ("hydra/launcher=joblib", "hydra/launcher", "-m"),
        (f"name={'[' * 1000}{']' * 1000}", "nested too deeply", "levels"),
        ("name=a\udcff[", "cannot read", "KEY=VALUE"),
    ],
)
def test_a_word_that_nothing_could_obey_is_refused(override: str, what: str, remedy: str):
    with pytest.raises(InputError) as caught:
        compose_settings([override])
    assert what in caught.value.what
    assert remedy in caught.value.remedy
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["pü'o = a,b (c) [x]$y{z}%20#q", "a\\b'\\", "plain"])
def test_a_config_folder_of_any_name_is_found(tmp_path: Path, name: str):
    folder = tmp_path / name / "experiment"
    folder.mkdir(parents=True)
    write_text(folder / "mine.yaml", "# @package _global_\nname: mine\n")
    assert compose_settings([search_path(tmp_path / name), "experiment=mine"]).name == "mine"


def test_a_config_folder_that_hydra_cannot_find_is_named():
    with pytest.raises(InputError, match="rename"):
        search_path(Path("/tmp/${seed}"))


def test_a_file_nested_too_deeply_is_refused(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    deep = "# @package _global_\ntasks: " + "[" * 2000 + "]" * 2000
    write_text(tmp_path / "experiment" / "mine.yaml", deep)
    with pytest.raises(InputError, match="nested too deeply"):
        compose_settings([search_path(tmp_path), "experiment=mine"])


def test_the_command_line_adds_a_task():
    words = ["+tasks.arc.kind=lm_eval", "+tasks.arc.lm_eval=arc_easy", "+tasks.b={kind: jsonl}"]
    tasks = compose_settings([*words, "tasks.math.search_items=5"]).tasks
    assert list(tasks) == ["translation", "math", "code", "arc", "b"]
    assert (tasks["arc"].kind, tasks["arc"].lm_eval) == ("lm_eval", "arc_easy")
    assert (tasks["b"].kind, tasks["math"].search_items) == ("jsonl", 5)
    assert list(compose_settings(["tasks=own", *words[:2]]).tasks) == ["arc"]


def test_a_sweep_is_read_once_before_any_job():
    words, first, folder = sweep_words(
        ["seed=3,4", "+tasks.arc.kind=lm_eval", "hydra.sweep.dir='a=b'", "hydra/launcher=joblib"]
    )
    assert first.seed == 3 and "arc" in first.tasks and folder == "a=b"
    assert "++tasks.arc.kind=lm_eval" in words and "seed=3,4" in words


@pytest.mark.parametrize("word", ["seed=", "seed=range(0,0)", "search=glob(zzz*)", "seed=choice()"])
def test_a_sweep_over_nothing_is_refused(word: str):
    with pytest.raises(InputError, match=word.partition("=")[0]):
        sweep_words([word])


@pytest.mark.parametrize("group", ["search", "agent", "surrogate"])
def test_a_part_is_chosen_by_its_group(group: str):
    with pytest.raises(InputError, match=f"choose it with {group}=NAME"):
        compose_settings([f"{group}.name=random"])

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hm3rl.config.compose import compose_settings
from hm3rl.config.tasks import HarnessSettings, JsonlSettings
from hm3rl.errors import InputError
from hm3rl.models.zoo import zoo_folder
from hm3rl.run.init import COMMENTS, write_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "qa.jsonl"
    file.write_text('{"prompt": "a", "reference": "b"}\n')
    return file


def test_the_written_config_composes(tmp_path: Path, data: Path):
    written = write_config(
        tmp_path / "conf", "mine", "zoo:base", ["m=zoo:math"], [f"qa={data}:chrf"]
    )
    assert written.read_text().splitlines()[1].startswith("# hm3rl search --config-dir")
    settings = compose_settings(
        [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "experiment=mine"]
    )
    assert settings.pool.base == "zoo:base"
    assert settings.pool.experts == {"m": "zoo:math"}
    assert (settings.tasks["qa"].path, settings.tasks["qa"].metric) == (str(data), "chrf")
    assert settings.pool.dtype == "bfloat16"  # as the zoo is stored
    text = written.read_text()
    assert all(text.count(f"  # {comment}") == 1 for comment in COMMENTS.values())
    # Half of the base's positions are left to the prompts.
    positions = json.loads((zoo_folder("base") / "config.json").read_text())
    assert settings.tasks["qa"].max_new_tokens == positions["max_position_embeddings"] // 2


def test_a_task_of_the_harness_is_named_by_its_name(tmp_path: Path, data: Path, monkeypatch):
    own = data.with_name("own.yaml")
    own.touch()
    monkeypatch.chdir(tmp_path)
    tasks = [f"qa={data}", "arc=lm_eval:arc_easy", "own=lm_eval:./own.yaml"]
    write_config(tmp_path / "conf", "mine", "zoo:base", ["m=zoo:math"], tasks)
    settings = compose_settings(
        [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "experiment=mine"]
    )
    assert isinstance(settings.tasks["qa"], JsonlSettings)
    harness = {name: t for name, t in settings.tasks.items() if isinstance(t, HarnessSettings)}
    assert {name: t.lm_eval for name, t in harness.items()} == {"arc": "arc_easy", "own": str(own)}


def test_other_names_of_fields_and_a_metric_are_written(tmp_path: Path):
    file = tmp_path / "gsm.csv"
    file.write_text("question,answer\n")
    names = ["prompt=question", "reference=answer"]
    written = write_config(
        tmp_path / "conf", "mine", "zoo:base", ["m=zoo:math"], [f"gsm={file}:number"], names
    )
    settings = compose_settings(
        [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", f"experiment={written.stem}"]
    )
    task = settings.tasks["gsm"]
    assert task.fields == {"prompt": "question", "reference": "answer"}
    assert (task.metric, task.path) == ("number", str(file))


def test_the_precision_is_that_of_the_sources(tmp_path: Path, data: Path, save_pool, tiny_config):
    folders = save_pool(tmp_path / "pool", tiny_config(), ("a",))
    for name, dtype in (("base", torch.bfloat16), ("a", torch.bfloat16)):
        file = folders[name] / "model.safetensors"
        save_file({k: v.to(dtype) for k, v in load_file(file).items()}, file, {"format": "pt"})
    arguments = [str(folders["base"]), [f"a={folders['a']}"], [f"qa={data}"]]
    assert "dtype: bfloat16" in write_config(tmp_path, "both", *arguments).read_text()
    save_file({k: v.float() for k, v in load_file(file).items()}, file, {"format": "pt"})
    assert "dtype: float32" in write_config(tmp_path, "one", *arguments).read_text()


@pytest.mark.parametrize("name", ["../x", "a b", "", "x" * 300, "a,b"])
def test_a_name_that_no_command_could_write_is_refused(tmp_path: Path, data: Path, name: str):
    with pytest.raises(InputError, match="--name"):
        write_config(tmp_path, name, "zoo:base", ["m=zoo:math"], [f"qa={data}"])


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, data: Path):
    with pytest.raises(InputError, match="cannot make the folder"):
        write_config(data, "mine", "zoo:base", ["m=zoo:math"], [f"qa={data}"])


def test_the_command_in_the_config_quotes_its_folder(tmp_path: Path, data: Path):
    folder = tmp_path / "my ' models"
    written = write_config(folder, "mine", "zoo:base", ["m=zoo:math"], [f"qa={data}"])
    command = written.read_text().splitlines()[1].removeprefix("# ")
    assert shlex.split(command)[3] == str(folder)


def test_an_existing_config_is_not_overwritten(tmp_path: Path, data: Path):
    arguments = (tmp_path, "mine", "zoo:base", ["m=zoo:math"], [f"qa={data}"])
    write_config(*arguments)
    with pytest.raises(InputError, match="exists"):
        write_config(*arguments)


@pytest.mark.parametrize(
    ("base", "experts", "tasks", "named"),
    [
        ("nowhere", ["m=zoo:math"], ["qa=DATA"], "nowhere"),
        ("zoo:base", ["m=gone"], ["qa=DATA"], "gone"),
        ("Qwen/Qwen3-0.6B", ["m=zoo:math"], ["qa=DATA"], "hf download"),
        ("zoo:base", ["zoo:math"], ["qa=DATA"], "zoo:math.*\n.*NAME=FOLDER"),
        ("zoo:base", ["m=zoo:math"], ["gsm8k"], "gsm8k.*\n.*NAME=lm_eval:TASK"),
        ("zoo:base", ["m=zoo:math"], ["qa=absent.jsonl"], "absent.jsonl"),
        ("zoo:base", ["m=zoo:math"], ["qa=lm_eval:absent.yaml"], "absent.yaml"),
        ("zoo:base", ["m=zoo:math"], ["qa=DATA:bleu"], "bleu"),
        ("zoo:base", ["m=zoo:math", "m=zoo:code"], ["qa=DATA"], "twice"),
        ("zoo:base", ["m=zoo:math"], [], "no expert or no task"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, data: Path, base: str, experts: list[str], tasks: list[str], named: str
):
    words = [task.replace("DATA", str(data)) for task in tasks]
    with pytest.raises(InputError, match=named):
        write_config(tmp_path / "conf", "mine", base, experts, words)

"""The configuration becomes tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase
from typer.testing import CliRunner

from hm3rl import registry
from hm3rl.cli import app
from hm3rl.config.compose import compose_settings
from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import HarnessSettings, JsonlSettings, SizedTaskSettings, TaskSettings
from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.run.build import check_settings
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import build_tasks


@pytest.fixture
def tokenizer(tiny_pool: ModelPool) -> PreTrainedTokenizerBase:
    return tiny_pool.tokenizer


def build(tokenizer: PreTrainedTokenizerBase, **tasks: TaskSettings) -> tuple[Task, ...]:
    return build_tasks(tasks, EvaluationSettings(), tokenizer)


def test_the_zoos_tasks_in_the_order_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    tasks = build(
        tokenizer,
        code=SizedTaskSettings(kind="code", search_items=5, test_items=7),
        math=SizedTaskSettings(kind="math", search_items=6, max_new_tokens=9),
        translation=SizedTaskSettings(kind="translation", search_items=4, test_items=4),
    )
    assert [task.name for task in tasks] == ["code", "math", "translation"]
    assert [len(task.items("search")) for task in tasks] == [5, 6, 4]
    assert len(tasks[0].items("test")) == 7
    assert tasks[1].max_new_tokens == 9


def test_the_code_task_can_execute(tokenizer: PreTrainedTokenizerBase) -> None:
    (code,) = build(tokenizer, code=SizedTaskSettings(kind="code", search_items=3, test_items=3))
    items = code.items("search")
    outputs = [items[0].reference, "x +", "( " + items[2].reference + " )"]
    assert code.score(items, outputs) == [1.0, 0.0, 1.0]


def test_a_file_of_ones_own(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    lines = [json.dumps({"prompt": f"w{i} w3", "reference": "w1"}) for i in range(60)]
    path.write_text("\n".join(lines))
    (task,) = build(
        tokenizer, own=JsonlSettings(kind="jsonl", path=str(path), metric="chrf", search_items=2)
    )
    assert (task.name, task.metric, task.max_new_tokens) == ("own", "chrf", 64)
    assert len(task.items("search")) == 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("poetry", TaskSettings(kind="poetry"), "unknown task 'poetry'"),
        ("sums", SizedTaskSettings(kind="math"), "keep their names"),
        ("own", JsonlSettings(kind="jsonl"), "has no file"),
        ("math", SizedTaskSettings(kind="math", search_items=1), "has 1 items"),
    ],
)
def test_bad_settings_are_refused_with_a_remedy(
    tokenizer: PreTrainedTokenizerBase, name: str, settings: TaskSettings, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(tokenizer, **{name: settings})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tasks.math.search_items=-1"], "tasks.math.search_items=-1 is out of range"),
        (["tasks.math.metric=chrf"], "unknown key tasks.math.metric"),
        (["tasks.math.path=x.jsonl"], "unknown key tasks.math.path"),
        (["tasks.code.chat_template=true"], "unknown key tasks.code.chat_template"),
        (["+tasks.own.kind=jsonl", "tasks.own.lm_eval=arc"], "unknown key tasks.own.lm_eval"),
        (["+tasks.arc.kind=lm_eval", "tasks.arc.path=x.jsonl"], "unknown key tasks.arc.path"),
        (["+tasks.own.kind=jsonl", "tasks.own.worst=3"], "unknown key tasks.own.worst"),
        (["+tasks.size.kind=path_length", "tasks.size.metric=x"], "unknown key tasks.size.metric"),
        (
            ["+tasks.size.kind=path_length", "tasks.size.worst=inf"],
            "tasks.size.worst=inf is out of range",
        ),
        (["+tasks.verse.kind=poetry"], "unknown task 'poetry'"),
        (["+tasks.verse.search_items=3"], "tasks.verse has no kind"),
    ],
)
def test_a_key_that_its_kind_does_not_read_is_unknown(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_settings(compose_settings(words))
    assert message in caught.value.what and caught.value.remedy
    refused = CliRunner().invoke(app, ["check", *words])
    assert refused.exit_code == 2 and message in " ".join(refused.output.split())


@pytest.fixture
def own_kinds() -> Iterator[None]:
    """Registers two kinds of task for one test."""

    @dataclass
    class FewSettings(TaskSettings):
        path: str = ""

    known = registry.snapshot()
    math = registry.find("task", "math").load()
    registry.register("task", "many", options=SizedTaskSettings)(lambda *made: math(*made))
    registry.register("task", "few", options=FewSettings)(lambda *made: math(*made))
    yield
    registry.restore(known)


def test_a_plugins_kind_says_which_keys_it_reads(own_kinds: None) -> None:
    settings = compose_settings(["+tasks.a.kind=many", "tasks.a.search_items=5"])
    check_settings(settings)
    assert settings.tasks["a"] == SizedTaskSettings("many", search_items=5)
    settings = compose_settings(["+tasks.a.kind=few", "tasks.a.path=p"])
    check_settings(settings)
    assert vars(settings.tasks["a"]) == {"kind": "few", "path": "p", "role": "objective"}
    with pytest.raises(InputError, match=r"unknown key tasks\.a\.search_items") as caught:
        compose_settings(["+tasks.a.kind=few", "tasks.a.path=p", "tasks.a.search_items=5"])
    assert "keys of tasks.a: kind, role, path" in caught.value.remedy


def test_a_harness_task_without_the_harness_says_what_to_install(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="lm-eval, which is not installed") as caught:
        build(tokenizer, arc=HarnessSettings(kind="lm_eval", lm_eval="arc_easy"))
    assert "pip install" in caught.value.remedy

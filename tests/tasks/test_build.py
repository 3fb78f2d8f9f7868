"""The configuration becomes tasks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from hm3rl.config.schema import EvaluationSettings, TaskSettings
from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import (
    READS,
    TASK_KINDS,
    build_tasks,
    refuse_unread,
    register_task,
)


@pytest.fixture
def tokenizer(tiny_pool: ModelPool) -> PreTrainedTokenizerBase:
    return tiny_pool.tokenizer


def build(tokenizer: PreTrainedTokenizerBase, **tasks: TaskSettings) -> tuple[Task, ...]:
    return build_tasks(tasks, EvaluationSettings(), tokenizer)


def test_the_zoos_tasks_in_the_order_asked_for(tokenizer: PreTrainedTokenizerBase) -> None:
    tasks = build(
        tokenizer,
        code=TaskSettings(kind="code", search_items=5, test_items=7),
        math=TaskSettings(kind="math", search_items=6, max_new_tokens=9),
        translation=TaskSettings(kind="translation", search_items=4, test_items=4),
    )
    assert [task.name for task in tasks] == ["code", "math", "translation"]
    assert [len(task.items("search")) for task in tasks] == [5, 6, 4]
    assert len(tasks[0].items("test")) == 7
    assert tasks[1].max_new_tokens == 9


def test_the_code_task_can_execute(tokenizer: PreTrainedTokenizerBase) -> None:
    (code,) = build(tokenizer, code=TaskSettings(kind="code", search_items=3, test_items=3))
    items = code.items("search")
    outputs = [items[0].reference, "x +", "( " + items[2].reference + " )"]
    assert code.score(items, outputs) == [1.0, 0.0, 1.0]


def test_a_file_of_ones_own(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    lines = [json.dumps({"prompt": f"w{i} w3", "reference": "w1"}) for i in range(60)]
    path.write_text("\n".join(lines))
    (task,) = build(
        tokenizer, own=TaskSettings(kind="jsonl", path=str(path), metric="chrf", search_items=2)
    )
    assert (task.name, task.metric, task.max_new_tokens) == ("own", "chrf", 64)
    assert len(task.items("search")) == 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("poetry", TaskSettings(kind="poetry"), "unknown kind of task 'poetry'"),
        ("sums", TaskSettings(kind="math"), "keep their names"),
        ("own", TaskSettings(kind="jsonl"), "has no file"),
        ("math", TaskSettings(kind="math", search_items=-1), "search_items=-1"),
        ("math", TaskSettings(kind="math", search_items=1), "has 1 items"),
        ("math", TaskSettings(kind="math", metric="chrf"), "metric=chrf means nothing"),
        ("code", TaskSettings(kind="code", chat_template=True), "chat_template=True means nothing"),
        ("own", TaskSettings(kind="jsonl", lm_eval="arc"), "lm_eval=arc means nothing"),
        ("arc", TaskSettings(kind="lm_eval", path="x.jsonl"), "path=x.jsonl means nothing"),
        ("own", TaskSettings(kind="jsonl", path="x", worst=3), "worst=3 means nothing"),
        ("size", TaskSettings(kind="path_length", metric="x"), "metric=x means nothing"),
        ("size", TaskSettings(kind="path_length", worst=inf), "worst=inf is out of range"),
    ],
)
def test_bad_settings_are_refused_with_a_remedy(
    tokenizer: PreTrainedTokenizerBase, name: str, settings: TaskSettings, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        refuse_unread({name: settings} if settings.kind in READS else {})
        build(tokenizer, **{name: settings})
    assert caught.value.remedy


def test_a_plugins_kind_may_say_which_keys_it_reads() -> None:
    try:
        register_task("any", TASK_KINDS["math"])
        register_task("few", TASK_KINDS["math"], reads=("path",))
        settings = TaskSettings(path="p", metric="m")
        refuse_unread({"a": replace(settings, kind="any")})
        with pytest.raises(InputError, match=r"a\.metric=m means nothing to kind=few"):
            refuse_unread({"a": replace(settings, kind="few")})
    finally:
        for kind in ("any", "few"):
            del TASK_KINDS[kind], READS[kind]


def test_a_harness_task_without_the_harness_says_what_to_install(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="lm-eval, which is not installed") as caught:
        build(tokenizer, arc=TaskSettings(kind="lm_eval", lm_eval="arc_easy"))
    assert "pip install" in caught.value.remedy

"""Puzzles of reasoning-gym: with the package where it is installed, else with one like it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hm3rl import registry
from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import ReasoningGymSettings, SplitSettings
from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.run.build import check_settings
from hm3rl.tasks.base import SPLITS, Task
from hm3rl.tasks.build import build_tasks

PACKAGE = """
import random

class Sums:
    def __init__(self, seed, size, most=9, answers=True):
        self.seed, self.size, self.most, self.answers = seed, size, most, answers
        assert most > 0, "most must be positive"

    def __getitem__(self, number):
        draw = random.Random(self.seed * 10000 + number)
        a, b = draw.randint(1, self.most), draw.randint(1, self.most)
        answer = str(a + b) if self.answers else None
        return {"question": f"{a} + {b} =", "answer": answer, "metadata": {"sum": a + b}}

    def score_answer(self, answer, entry):
        if answer is None:
            return 0.0
        return 1.0 if answer == str(entry["metadata"]["sum"]) else 0.1 * answer.isdigit()

def helper(answer):
    return eval(answer)

class Trusting(Sums):
    def score_answer(self, answer, entry):
        return float(self.read(answer) == entry["metadata"]["sum"])

    def read(self, answer):
        return helper(answer)

DATASETS = {"sums": Sums, "trusting": Trusting}

def create_dataset(name, **options):
    if name not in DATASETS:
        raise ValueError(f"Dataset '{name}' not registered")
    return DATASETS[name](**options)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of that name and interface."""
    (tmp_path / "reasoning_gym").mkdir()
    (tmp_path / "reasoning_gym" / "__init__.py").write_text(PACKAGE)
    described = tmp_path / "reasoning_gym-0.0.1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: reasoning-gym\nVersion: 0.0.1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "reasoning_gym", raising=False)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("reasoning_gym", None)


def build(pool: ModelPool, dataset: str = "sums", **settings: object) -> Task:
    chosen = ReasoningGymSettings(kind="reasoning_gym", dataset=dataset, **settings)  # type: ignore[arg-type]
    (task,) = build_tasks({"own": chosen}, EvaluationSettings(), pool.tokenizer)
    return task


def test_items_are_made_once_divided_by_their_hash_and_judged_by_the_data_set(
    package: None, tiny_pool: ModelPool
) -> None:
    task, again = build(tiny_pool, size=300), build(tiny_pool, size=300)
    asked = [item.prompt for split in SPLITS for item in task.items(split)]
    assert 50 < len(asked) == len(set(asked)) <= 81  # of 300, many are the same question
    assert all(task.items(split) == again.items(split) for split in SPLITS)
    items = task.items("search")[:3]
    assert task.score(items, [items[0].reference, "99", "no"]) == [1.0, 0.1, 0.0]
    other = build(tiny_pool, size=300, seed=1, options={"most": 50})
    assert set(other.items("search")) - set(task.items("search"))
    assert other.version != task.version
    few = build(tiny_pool, size=300, search_items=4, split=SplitSettings(search=70, test=30))
    assert len(few.items("search")) == 4 and "70/30" in few.version
    talk = build(tiny_pool, size=300, chat_template=True)
    assert items[0].prompt in talk.items("search")[0].prompt != items[0].prompt


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("", {}, r"give tasks\.own\.dataset=NAME"),
        ("poems", {}, "Dataset 'poems' not registered"),
        ("sums", {"least": 1}, "unexpected keyword argument 'least'"),
        ("sums", {"most": 0}, "most must be positive"),
        ("sums", {"answers": False}, "items without an answer"),
        ("trusting", {}, "runs what a model wrote, outside the sandbox"),
        ("composite", {}, "several data sets"),
    ],
)
def test_what_cannot_be_a_task_is_refused(
    package: None, tiny_pool: ModelPool, dataset: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(tiny_pool, dataset, options=options)
    assert caught.value.remedy


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hm3rl import api

    part = registry.find("task", "reasoning_gym")
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="the task reasoning_gym needs reasoning_gym") as caught:
        part.check_packages()
    assert "hm3rl[reasoning-gym]" in caught.value.remedy
    words = ["+tasks.legs.kind=reasoning_gym", "tasks.legs.dataset=leg_counting"]
    chosen = api.settings(*words, "tasks.legs.options={max_animals: 3}")
    assert chosen.tasks["legs"].options == {"max_animals": 3}
    with pytest.raises(InputError, match="needs"):
        check_settings(chosen)


def test_a_data_set_of_the_package_itself(tiny_pool: ModelPool) -> None:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    task = build(tiny_pool, "leg_counting", size=40)
    items = task.items("search")[:2]
    assert task.score(items, [items[0].reference, "no legs"]) == [1.0, 0.0]
    with pytest.raises(InputError, match="outside the sandbox"):
        build(tiny_pool, "simple_integration")

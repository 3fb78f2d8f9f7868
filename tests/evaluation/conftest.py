"""Toy tasks over the tiny vocabulary, and the real models of the zoo."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Item, Split, Task


class WordTask(Task):
    """Prompts and references of random words; the score is the share of `good` words put out.

    Random models never answer with the reference, but every model has a score of its own.
    """

    metric = "share"
    max_new_tokens = 6
    exact_only = False
    version = "1"

    def __init__(self, name: str, count: int = 12, seed: int = 0) -> None:
        self.name = name
        self.calls = 0
        self._count = count
        self._seed = seed

    def items(self, split: Split) -> tuple[Item, ...]:
        rng = random.Random(f"{self.name}/{split}/{self._seed}")

        def words(low: int, high: int) -> str:
            return " ".join(f"w{rng.randrange(28)}" for _ in range(rng.randint(low, high)))

        return tuple(Item(self.name, words(1, 7), words(1, 5)) for _ in range(self._count))

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        self.calls += 1
        good = {f"w{i}" for i in range(28) if (i * 7 + len(self.name)) % 3}
        shares = []
        for output in outputs:
            words = output.split()
            shares.append(sum(w in good for w in words) / len(words) if words else 0.0)
        return shares

    def secondary(self, items: Sequence[Item], outputs: Sequence[str]) -> dict[str, list[float]]:
        return {"length": [len(output.split()) / self.max_new_tokens for output in outputs]}


class EchoTask(WordTask):
    """Exact match against what nobody says: every score is 0."""

    metric = "exact_match"
    exact_only = True

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        return [
            float(o.split() == i.reference.split()) for i, o in zip(items, outputs, strict=True)
        ]


@pytest.fixture
def members(tiny_pool: ModelPool) -> MemberSet:
    return MemberSet(tiny_pool)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EvaluationStore]:
    with EvaluationStore(tmp_path / "store" / "evaluations.sqlite") as store:
        yield store


@pytest.fixture
def tasks() -> tuple[WordTask, WordTask]:
    return WordTask("one"), WordTask("three")


@pytest.fixture
def evaluator(
    members: MemberSet, tasks: tuple[WordTask, WordTask], store: EvaluationStore
) -> Evaluator:
    return Evaluator(members, tasks, store)


@pytest.fixture(scope="session")
def zoo_pool() -> ModelPool:
    names = ("translation", "math", "code")
    return ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in names})


@pytest.fixture(scope="session")
def zoo_members(zoo_pool: ModelPool) -> MemberSet:
    return MemberSet(zoo_pool)


def blend(
    *weights: float, scale: float = 1.0, names: Sequence[str] = ("a", "b", "c")
) -> MergeRecipe:
    """Task arithmetic of the tiny experts."""
    return MergeRecipe("task_arithmetic", tuple(zip(names, weights, strict=True)), scale=scale)

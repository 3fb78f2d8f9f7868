"""Every number that decides what the bench's base and experts become, and who is sealed away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.pools.lists import list_tasks
from experiments.pools.numbers import number_tasks
from experiments.zoo.settings import ZooSettings
from experiments.zoo.training import Schedule
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sequences import ReversalTask, SortingTask
from hm3rl.tasks.synthetic_text import Level, SyntheticTask
from hm3rl.tasks.translation import TranslationTask

DEVELOPMENT = (
    *("translation", "math", "code", "sorting", "reversal"),
    *("counting", "largest", "clock"),
)
"""Tasks of the development pools: all tuning and training happens there."""

SEALED: Mapping[str, tuple[str, ...]] = {
    "A": ("dates", "brackets", "edits", "bases"),
    "B": ("by_key", "units", "logic", "tenses"),
    "C": ("series", "sets", "walking", "roman"),
}
"""Tasks of the three sets of test pools."""

SPARE = ("unique", "runs", "picking", "shifting")
"""Tasks that only the base's text has: more skills a merge may lose."""


def bench_tasks(n_search: int = 150, n_test: int = 300) -> dict[str, SyntheticTask]:
    """Return all tasks by name, the code task without a program runner.

    Args:
        n_search: Search items of each.
        n_test: Held-out items of each.
    """
    kinds = (TranslationTask, MathTask, CodeTask, SortingTask, ReversalTask)
    old = [kind(n_search=n_search, n_test=n_test) for kind in kinds]
    return {
        task.name: task
        for task in (*old, *list_tasks(n_search, n_test), *number_tasks(n_search, n_test))
    }


@dataclass(frozen=True)
class Expert:
    """How one expert comes from the base.

    Attributes:
        task: Its task.
        seed: Seed of its data.
        learning_rate: Peak learning rate.
        replay: Share of the base's mixture in its text; 0, with a high learning rate, makes an
            expert as users' are: it forgets, and hardly merges.
        steps: Optimiser steps.
    """

    task: str
    seed: int = 10
    learning_rate: float = 7e-4
    replay: float = 0.35
    steps: int = 400

    @property
    def schedule(self) -> Schedule:
        """Its schedule."""
        return Schedule(
            steps=self.steps,
            rows=96,
            learning_rate=self.learning_rate,
            warmup=20,
            average=0.98,
            pool=20_000,
        )


BASE = Schedule(steps=2400, rows=192, learning_rate=3e-3, warmup=100, average=0.99, pool=20_000)


SHARES = {"reversal": 0.003, "unique": 0.003, "logic": 0.005, "sets": 0.01, "code": 0.01}
SHARES |= {"series": 0.04, "bases": 0.04, "clock": 0.04, "math": 0.03, "translation": 0.012}


def _experts() -> dict[str, Expert]:
    tasks = (*DEVELOPMENT, *(task for tasks in SEALED.values() for task in tasks))
    found = {task: Expert(task) for task in tasks}
    # Two experts of one task, and experts that forgot the rest, on both sides of the seal.
    for task in ("math", "counting", "edits", "units", "sets"):
        found[f"{task}2"] = Expert(task, seed=11)
    for task in ("sorting", "bases", "tenses", "walking"):
        found[f"{task}_alone"] = Expert(task, seed=12, learning_rate=2e-3, replay=0.0)
    return found


EXPERTS: Mapping[str, Expert] = _experts()
"""All experts by name."""


@dataclass(frozen=True)
class BenchSettings(ZooSettings):
    """The base: the zoo's architecture, other text.

    Attributes:
        share: The part of a task's base text drawn from the full grammar; the rest is easy.
        shares_of: The same for tasks that are learned from less, or need more.
    """

    base: Schedule = BASE
    share: float = 0.02
    shares_of: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))

    def text(self) -> dict[tuple[str, Level], float]:
        """The base's mixture: equal parts of all tasks, mostly easy."""
        tasks = bench_tasks()
        mixture: dict[tuple[str, Level], float] = {}
        for task in tasks:
            full = self.shares_of.get(task, self.share)
            mixture[(task, "easy")] = (1.0 - full) / len(tasks)
            mixture[(task, "full")] = full / len(tasks)
        return mixture

    def expert_text(self, expert: Expert) -> dict[tuple[str, Level], float]:
        """An expert's mixture: its full task and a replay of the base's."""
        mixture = {part: share * expert.replay for part, share in self.text().items()}
        mixture[(expert.task, "full")] += 1.0 - expert.replay
        return {part: share for part, share in mixture.items() if share > 0}

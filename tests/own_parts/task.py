"""A task with an option: the zoo's sorting, where so many words in place are enough for a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.config.values import number
from hm3rl.registry import register
from hm3rl.tasks.base import Item, Split, Task
from hm3rl.tasks.build import TaskTools
from hm3rl.tasks.math import MathTask


@dataclass
class LenientSettings(SizedTaskSettings):
    """Options of the kind `lenient`."""

    least: float = number(0.5, above=0, most=1)


@register("task", "lenient", options=LenientSettings)
class LenientTask(Task):
    """Arithmetic in which a share of the right digits counts."""

    metric = "share of digits"
    exact_only = False

    def __init__(self, name: str, settings: LenientSettings, tools: TaskTools) -> None:
        self.name, self.least = name, settings.least
        items = {"n_search": settings.search_items or 24, "n_test": settings.test_items or 24}
        self._zoo = MathTask(**items)
        self.max_new_tokens = settings.max_new_tokens or self._zoo.max_new_tokens
        self.version = f"lenient-1-{settings.least}"

    def items(self, split: Split) -> Sequence[Item]:
        """The zoo's items."""
        return self._zoo.items(split)

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """1 where at least so many digits stand in their place."""
        return [
            float(same(item.reference, output) >= self.least)
            for item, output in zip(items, outputs, strict=True)
        ]


def same(reference: str, answer: str) -> float:
    """Share of the reference's words that stand at the same place of the answer."""
    wanted, found = reference.split(), answer.split()
    return sum(a == b for a, b in zip(wanted, found, strict=False)) / len(wanted)

"""Sums: three-digit additions with carries, answered at once or after working them out.

"add 1 4 7 + 2 3 8 =" is answered by "3 8 5", or by "5 8 3 then 3 8 5": worked out with the last
digit first, as one adds by hand, and turned round. What stands after the last "then" is the answer,
so both score alike, and one is twice as long: a task for trading right answers against short ones
(`answer_length`). The words are those of the zoo's vocabulary; its base never saw the task.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hm3rl.tasks.base import Item
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise

WORKING = " then "


class SumsTask(SyntheticTask):
    """Exact match of what stands after the working, if there is any."""

    name = "sums"
    metric = "last_match"
    max_new_tokens = 12
    exact_only = False
    version = "sums-1"

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw a sum; the easy level has no carry, and its reference is the answer alone."""
        while True:
            left, right = rng.randrange(1000), rng.randrange(1000)
            columns = [left // 10**place % 10 + right // 10**place % 10 for place in range(3)]
            if level == "full" or max(columns) < 10:
                break
        digits = [" ".join(f"{number:03d}") for number in (left, right, left + right)]
        return Item(self.name, f"add {digits[0]} + {digits[1]} =", digits[2])

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score 1 for the right sum, else 0."""
        return [
            float(_said(output) == _said(item.reference))
            for item, output in zip(items, outputs, strict=True)
        ]

    def words(self) -> Sequence[str]:
        """Return digits and the words of prompt and answer."""
        return ["add", "+", "=", "then", *"0123456789"]


class WorkedSumsTask(SumsTask):
    """The same sums, whose references are worked out: what an expert that thinks is trained on."""

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw a sum with its working."""
        item = super().draw(rng, level)
        working = " ".join(reversed(item.reference.split()))
        return Item(self.name, item.prompt, f"{working}{WORKING}{item.reference}")


def _said(answer: str) -> str:
    """What stands after the working, if there is any."""
    return normalise(answer).rpartition(WORKING)[2]

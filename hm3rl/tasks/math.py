"""Math: three-digit addition and subtraction, the answer's digits written backwards.

"compute 1 4 7 + 2 3 8 =" is answered by "5 8 3" (385): the last digit first, as one adds by hand,
so that every step needs only one column and the carry. Scored by exact match.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hm3rl.tasks.base import Item
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise


class MathTask(SyntheticTask):
    """Sums and differences of numbers below 1000; the easy level has no carry and no borrow."""

    name = "math"
    metric = "exact_match"
    max_new_tokens = 5
    exact_only = True
    version = "math-1"

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw a sum or a difference with a non-negative result."""
        while True:
            left, right = rng.randrange(1000), rng.randrange(1000)
            operator = rng.choice("+-")
            if operator == "-" and left < right:
                left, right = right, left
            if level == "full" or not _carries(left, right, operator):
                break
        result = left + right if operator == "+" else left - right
        prompt = f"compute {_digits(left)} {operator} {_digits(right)} ="
        return Item(self.name, prompt, " ".join(reversed(str(result))))

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score 1 for the right digits, else 0."""
        return [
            float(normalise(output) == item.reference)
            for item, output in zip(items, outputs, strict=True)
        ]

    def words(self) -> Sequence[str]:
        """Return digits, operators and the marks of the prompt."""
        return ["compute", "=", "+", "-", *"0123456789"]


def _digits(number: int) -> str:
    """Write a number below 1000 as three digits apart."""
    return " ".join(f"{number:03d}")


def _carries(left: int, right: int, operator: str) -> bool:
    """Tell whether any column of the sum carries or of the difference borrows."""
    columns = [(left // 10**place % 10, right // 10**place % 10) for place in range(3)]
    if operator == "+":
        return any(a + b > 9 for a, b in columns)
    return any(a < b for a, b in columns)

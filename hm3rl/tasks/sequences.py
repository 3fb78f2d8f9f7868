"""Two tasks about sequences, for pools of more than three experts: sorting and reversal.

"small first 7 2 5 =" is answered by "2 5 7", "negate dog cat house =" by "house cat dog". The words
that name the tasks are the nearest that the zoo's vocabulary has: the base never saw either task,
and its tokenizer is that of the first three. Scored by exact match.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hm3rl.tasks.base import Item
from hm3rl.tasks.french import NOUNS
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise

EASY_LENGTH = 3
"""Length of every sequence of the easy level; the full one goes further."""


class _SequenceTask(SyntheticTask):
    """Exact match on a rearranged sequence."""

    metric = "exact_match"
    exact_only = True

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score 1 for the right sequence, else 0."""
        return [
            float(normalise(output) == item.reference)
            for item, output in zip(items, outputs, strict=True)
        ]


class SortingTask(_SequenceTask):
    """Digits in ascending order, repeats possible; three of them, or up to six."""

    name = "sorting"
    max_new_tokens = 7
    version = "sorting-1"

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw three to six digits."""
        length = EASY_LENGTH if level == "easy" else rng.randint(EASY_LENGTH, 6)
        digits = [str(rng.randrange(10)) for _ in range(length)]
        return Item(self.name, f"small first {' '.join(digits)} =", " ".join(sorted(digits)))

    def words(self) -> Sequence[str]:
        """Return digits and the marks of the prompt."""
        return ["small", "first", "=", *"0123456789"]


class ReversalTask(_SequenceTask):
    """English nouns in the opposite order; three of them, or up to five."""

    name = "reversal"
    max_new_tokens = 6
    version = "reversal-1"

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw three to five nouns."""
        length = EASY_LENGTH if level == "easy" else rng.randint(EASY_LENGTH, 5)
        words = [rng.choice(NOUNS).english for _ in range(length)]
        return Item(self.name, f"negate {' '.join(words)} =", " ".join(reversed(words)))

    def words(self) -> Sequence[str]:
        """Return nouns and the marks of the prompt."""
        return ["negate", "=", *(noun.english for noun in NOUNS)]

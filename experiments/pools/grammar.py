"""What the bench's own tasks share: an answer that is right or wrong, and a few words.

A task is one function from a random generator and a level to a prompt and an answer, both as words.
The easy level is a part of the full grammar, about a quarter to a half of it: the base masters
that part and sees little of the rest (`experiments/zoo/README.md` says why experts of such a base
can be merged). Prompts begin with a word that names the task. One token is one word, numbers are
written digit by digit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from hm3rl.tasks.base import Item
from hm3rl.tasks.french import NOUNS
from hm3rl.tasks.synthetic_text import Level, SyntheticTask, normalise

Compose = Callable[[random.Random, Level], tuple[Sequence[str], Sequence[str]]]
"""Draws the words of a prompt and of its answer."""

DIGITS = tuple("0123456789")
THINGS = tuple(noun.english for noun in NOUNS[:24])
"""Nouns that stand in lists."""


class GrammarTask(SyntheticTask):
    """Exact match on an answer that a function composes.

    Args:
        name: Name of the task.
        compose: Draws an item's words.
        vocabulary: Every word that `compose` can produce.
        max_new_tokens: Longest answer with its end token.
        n_search: Number of search items.
        n_test: Number of held-out items.
    """

    metric = "exact_match"
    exact_implies_one = True
    exact_only = True

    def __init__(
        self,
        name: str,
        compose: Compose,
        vocabulary: Sequence[str],
        max_new_tokens: int,
        n_search: int,
        n_test: int,
    ) -> None:
        super().__init__(n_search, n_test)
        self.name = name
        self.version = f"{name}-1"
        self.max_new_tokens = max_new_tokens
        self._compose = compose
        self._vocabulary = tuple(vocabulary)

    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw one item."""
        prompt, answer = self._compose(rng, level)
        return Item(self.name, " ".join([*prompt, "="]), " ".join(answer))

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score 1 for the reference, else 0."""
        return [
            float(normalise(output) == item.reference)
            for item, output in zip(items, outputs, strict=True)
        ]

    def words(self) -> Sequence[str]:
        """Return every token the grammar can produce, in a fixed order."""
        return ("=", *self._vocabulary)


def digits(number: int) -> list[str]:
    """Write a number digit by digit."""
    return list(str(number))


def things(rng: random.Random, count: int) -> list[str]:
    """Draw distinct nouns."""
    return rng.sample(THINGS, count)


def joined(parts: Sequence[Sequence[str]], mark: str) -> list[str]:
    """Put a mark between lists of words."""
    words: list[str] = []
    for number, part in enumerate(parts):
        words += [mark, *part] if number else part
    return words

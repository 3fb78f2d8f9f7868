"""Tasks whose items are drawn from a grammar: fixed splits, distinct prompts, training text.

A subclass only says how one item is drawn. Held-out items and training text come from the same
grammar and are kept apart by `split_of`, so no training text can equal a held-out prompt.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from hm3rl.tasks.base import Item, Split, Task, split_of

Level = Literal["easy", "full"]
"""How much of the grammar is used: the part a base model masters, or all of it."""


def normalise(text: str) -> str:
    """Collapse white space, so that decoding details cannot decide a score."""
    return " ".join(text.split())


class SyntheticTask(Task):
    """A task drawn from a grammar with a seed.

    Args:
        n_search: Number of search items.
        n_test: Number of test items.
        n_train: Number of items in the (calibration) view of the training split.
        seed: Seed of the held-out items; training text takes its own.
    """

    def __init__(
        self, n_search: int = 200, n_test: int = 500, n_train: int = 256, seed: int = 0
    ) -> None:
        self._counts: dict[Split, int] = {"train": n_train, "search": n_search, "test": n_test}
        self._seed = seed
        self._items: dict[Split, tuple[Item, ...]] = {}

    @abstractmethod
    def draw(self, rng: random.Random, level: Level) -> Item:
        """Draw one item, of whatever split its prompt belongs to."""

    def items(self, split: Split) -> tuple[Item, ...]:
        """Return distinct items of the full grammar that belong to `split`."""
        if split not in self._items:
            rng = random.Random(f"{self.name}/{split}/{self._seed}")
            found: dict[str, Item] = {}
            while len(found) < self._counts[split]:
                item = self.draw(rng, "full")
                if split_of(self.name, item.prompt) == split:
                    found.setdefault(item.prompt, item)
            self._items[split] = tuple(found.values())
        return self._items[split]

    def training_items(self, count: int, level: Level, seed: int) -> list[Item]:
        """Draw training items, repeats possible, none of them held out."""
        rng = random.Random(f"{self.name}/training/{level}/{seed}")
        drawn: list[Item] = []
        while len(drawn) < count:
            item = self.draw(rng, level)
            if split_of(self.name, item.prompt) == "train":
                drawn.append(item)
        return drawn

    @abstractmethod
    def words(self) -> Sequence[str]:
        """Return every token the grammar can produce, in a fixed order."""

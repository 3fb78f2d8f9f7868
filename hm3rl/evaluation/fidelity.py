"""How thoroughly a candidate is scored: on which share of the items, and with or without decoding.

Shares are nested: a share takes the items with the smallest hashes, so a larger one only adds
items, and two candidates scored on the same share were asked the same questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hm3rl.errors import InputError
from hm3rl.tasks.base import Item
from hm3rl.tasks.suite import MIN_ITEMS

Measure = Literal["full", "proxy"]
"""What a score per item means; only scores of one measure can be put together."""

_PATTERN = re.compile(r"(full|proxy|(?:items|proxy):(?P<share>[0-9]*\.?[0-9]+(?:e-?[0-9]+)?))")


@dataclass(frozen=True)
class Fidelity:
    """A share of the items, and how they are scored.

    Attributes:
        share: Share of each task's items, in (0, 1].
        proxy: Whether one teacher-forced pass replaces decoding: an item scores 1 if greedy
            decoding gives its reference, else 0. That is the score itself where only the reference
            counts, and less than it where other answers may be right (programs, chrF).
    """

    share: float = 1.0
    proxy: bool = False

    def __post_init__(self) -> None:
        """Check the share and round it to what is written."""
        if not 0.0 < self.share <= 1.0:
            raise InputError(
                f"a fidelity of {self.share:g} of the items is outside (0, 1]", "give a share"
            )
        object.__setattr__(self, "share", float(f"{self.share:.6g}"))

    def __str__(self) -> str:
        if self.share == 1.0:
            return self.measure
        return f"{'proxy' if self.proxy else 'items'}:{self.share:g}"

    @classmethod
    def parse(cls, text: str | Fidelity) -> Fidelity:
        """Read `full`, `items:0.25`, `proxy` or `proxy:0.25`; the reverse of `str`.

        Raises:
            InputError: It is none of these.
        """
        if isinstance(text, Fidelity):
            return text
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise InputError(
                f"unknown fidelity {text!r}",
                "write full, items:SHARE, proxy or proxy:SHARE, with a share of the items",
            )
        return cls(float(match["share"] or 1.0), text.startswith("proxy"))

    @property
    def measure(self) -> Measure:
        """What its scores per item mean."""
        return "proxy" if self.proxy else "full"

    def numbers(self, items: Sequence[Item]) -> tuple[int, ...]:
        """Choose the items.

        Args:
            items: All items of a task and split.

        Returns:
            Their numbers, ascending; two at least, for a standard error.
        """
        count = max(math.ceil(self.share * len(items) - 1e-9), MIN_ITEMS)
        if count >= len(items):
            return tuple(range(len(items)))
        order = sorted(range(len(items)), key=lambda number: (items[number].key, number))
        return tuple(sorted(order[:count]))

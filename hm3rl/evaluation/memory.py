"""Running out of memory: how it is recognised, and doing the work in halves then."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from hm3rl.errors import MachineError

S = TypeVar("S")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on whatever device."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def too_little_memory(what: str = "score a single item with this model") -> MachineError:
    """The error of a machine that cannot go on, however small the portions."""
    return MachineError(f"memory does not suffice to {what}; free some, or use pool.dtype=bfloat16")


@dataclass
class TooMuch:
    """What has been found to be too much for the memory, so that it is not tried again.

    Attributes:
        size: Smallest size that failed.
    """

    size: float = math.inf


def in_memory(
    work: Callable[[S], object],
    rows: S,
    halves: Callable[[S], tuple[S, S]],
    size: Callable[[S], float] = lambda _: 0.0,
    too_much: TooMuch | None = None,
) -> None:
    """Do the work on all rows, or on half of them at a time, as often as memory demands.

    Args:
        work: What is to be done; what an interrupted call has finished, it does not do again.
        rows: On what.
        halves: Divides rows in two.
        size: What the memory for some rows grows with.
        too_much: What earlier calls found to be too much, which is divided at once; kept up to
            date.

    Raises:
        MachineError: Memory does not suffice for what cannot be divided (`halves` raises
            ValueError).
    """
    too_much = TooMuch() if too_much is None else too_much
    parts = _divided(rows, halves) if size(rows) >= too_much.size else None
    if parts is None:
        try:
            work(rows)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        too_much.size = min(too_much.size, size(rows) or math.inf)
        parts = _divided(rows, halves)
        if parts is None:
            raise too_little_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    for part in parts:
        in_memory(work, part, halves, size, too_much)


def _divided(rows: S, halves: Callable[[S], tuple[S, S]]) -> tuple[S, S] | None:
    """Two halves, None if there are none."""
    try:
        return halves(rows)
    except ValueError:
        return None

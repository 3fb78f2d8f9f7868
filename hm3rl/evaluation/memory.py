"""Running out of memory: how it is recognised, and doing the work in halves then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from hm3rl.errors import HM3Error

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


def too_little_memory(what: str = "score a single item with this model") -> HM3Error:
    """The error of a machine that cannot go on, however small the portions."""
    return HM3Error(f"memory does not suffice to {what}; free some, or use pool.dtype=bfloat16")


def in_memory(work: Callable[[S], object], rows: S, halves: Callable[[S], tuple[S, S]]) -> None:
    """Do the work on all rows, or on half of them at a time, as often as memory demands.

    Args:
        work: What is to be done; what an interrupted call has finished, it does not do again.
        rows: On what.
        halves: Divides rows in two.

    Raises:
        HM3Error: Memory does not suffice for what cannot be divided (`halves` raises ValueError).
    """
    try:
        work(rows)
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    try:
        parts = halves(rows)
    except ValueError:
        raise too_little_memory() from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for part in parts:
        in_memory(work, part, halves)

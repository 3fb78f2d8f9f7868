"""Spreading independent pieces of tensor work over threads.

torch parallelises within an operation, which is no use where the operations are small enough for a
core's cache, or serial as drawing random numbers is. Here each thread runs its operations alone, so
that results do not depend on how many there are: a product of matrices spread over threads adds up
in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")

WORTH_THREADS = 1 << 20
"""Total size of the work below which threads cost more than they save."""


def in_threads(
    function: Callable[[In], Out], items: Sequence[In], size: Callable[[In], int]
) -> list[Out]:
    """Apply a function to all items, on `torch.get_num_threads()` threads.

    Args:
        function: Independent of the order of calls, and safe to be run by several threads.
        items: What to apply it to.
        size: Work of an item, 0 for work that is not the processor's; the largest are begun first.

    Returns:
        Results in the order of `items`.
    """
    threads = torch.get_num_threads()
    sizes = [size(item) for item in items]
    if threads == 1 or sum(sizes) < WORTH_THREADS:
        with alone():
            return [function(item) for item in items]
    order = sorted(range(len(items)), key=lambda index: -sizes[index])
    # A thread's own setting also becomes the default of threads to come; `alone` puts it back.
    with (
        alone(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as p,
    ):
        futures = {index: p.submit(function, items[index]) for index in order}
        return [futures[index].result() for index in range(len(items))]


@contextmanager
def alone() -> Iterator[None]:
    """Operations of this thread are not spread over others; afterwards all is as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""Global state of the agent, kept apart from everybody else's: generators and torch's threads.

Stable-Baselines3 and torch distributions draw from global generators. What else draws from them (an
evaluation that was a forward in one run and a hit in the store in the next) must not change the
agent's decisions, and the agent must not disturb others. And the agent's networks are so small that
a second thread costs several times what it saves, while the models it evaluates want them all. So
the agent's code runs inside `scope`, which swaps its own state in, and evaluations run inside
`outside`, which swaps it out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class GeneratorScope:
    """The agent's generator states, and one thread.

    Args:
        seed: Seeds the private states of Python's, numpy's and torch's generators.
    """

    def __init__(self, seed: int) -> None:
        self._inside = 0
        saved = self._capture()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        self._state = self._capture()
        self._restore(saved)

    @staticmethod
    def _capture() -> tuple[Any, Any, Any, int]:
        generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
        return *generators, torch.get_num_threads()

    @staticmethod
    def _restore(state: tuple[Any, Any, Any, int]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        torch.set_num_threads(state[3])

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        others, own = self._capture(), self._state
        self._restore(own)
        self._state = others
        try:
            yield
        finally:
            own, others = self._capture(), self._state
            self._state = own
            self._restore(others)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Use the agent's own; nested scopes change nothing."""
        if self._inside:
            yield
            return
        self._inside += 1
        try:
            with self._swapped():
                yield
        finally:
            self._inside -= 1

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Use everybody's again, for a call out of the agent's code."""
        if not self._inside:
            yield
            return
        self._inside -= 1
        try:
            with self._swapped():
                yield
        finally:
            self._inside += 1

"""Random numbers of the agent, kept apart from everybody else's.

Stable-Baselines3 and torch distributions draw from global generators. What else draws from them (an
evaluation that was a forward in one run and a hit in the store in the next) must not change the
agent's decisions, and the agent must not disturb others. So the agent's code runs inside `scope`,
which swaps its own generator states in, and evaluations run inside `outside`, which swaps them out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class OwnRandomness:
    """The agent's generator states.

    Args:
        seed: Seeds all three global generators' private states.
    """

    def __init__(self, seed: int) -> None:
        self._inside = 0
        saved = self._capture()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        self._state = self._capture()
        self._restore(saved)

    @staticmethod
    def _capture() -> tuple[Any, Any, Any]:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    @staticmethod
    def _restore(state: tuple[Any, Any, Any]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])

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
        """Use the agent's generators; nested scopes change nothing."""
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
        """Use everybody's generators again, for a call out of the agent's code."""
        if not self._inside:
            yield
            return
        self._inside -= 1
        try:
            with self._swapped():
                yield
        finally:
            self._inside += 1

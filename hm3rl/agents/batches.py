"""Paths that an agent made: with the preferences they were made under, and by what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BEHAVIOUR, VARIATION, CLIMB = "behaviour", "variation", "hill_climbing"
POLICY, ROLLOUT = "policy", "rollout"


class Proposals(NamedTuple):
    """Paths with the preferences under which they were made, and who made them.

    Attributes:
        tokens: Rows, shape (n, horizon).
        preferences: Shape (n, K).
        chosen_by: What made each, length n; see `hm3rl.surrogate.dataset.EvaluatePaths`.
    """

    tokens: np.ndarray
    preferences: np.ndarray
    chosen_by: tuple[str, ...]

    @classmethod
    def of(cls, tokens: np.ndarray, preferences: np.ndarray, maker: str) -> Proposals:
        """Paths that were all made by the same part of an agent."""
        return cls(tokens, preferences, (maker,) * len(tokens))

    @classmethod
    def joined(cls, parts: Sequence[Proposals]) -> Proposals:
        """All of several, in order."""
        return cls(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.preferences for part in parts]),
            tuple(maker for part in parts for maker in part.chosen_by),
        )

    def at(self, places: Sequence[int] | np.ndarray) -> Proposals:
        """Those at some places, in that order."""
        index = np.asarray(places, dtype=np.int64)
        made = tuple(self.chosen_by[i] for i in index)
        return Proposals(self.tokens[index], self.preferences[index], made)

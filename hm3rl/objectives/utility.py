"""u_lambda(F) - beta_1 T: the one number a path is worth under a preference (HM3 equation (9))."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from hm3rl.config.agents import AgentSettings
from hm3rl.objectives.indicators import non_dominated
from hm3rl.objectives.scalarisation import Scalarisation, scalarise

BALANCE, OWN = "balance", "run"
"""Utilities that a model is picked by: good at all tasks at once, or what the run was searched by.
"""

GOOD = 0.8
"""Share of the best expert's score above which a model is called good at a task."""

TIE = 1e-12
"""Utilities that differ by less are the same; sums of a few products err by less than this."""


@dataclass(frozen=True)
class Utility:
    """Scalarises outcomes of paths; the length cost comes after, whatever the scalarisation.

    Environment, replay, climbs, decoding and what is picked from the archive all use the one that
    `of` makes of a run's settings, so that none pays another price.

    Attributes:
        kind: `weighted_sum`, sum_k lambda_k f_k / z*_k, the reward of equation (9), or
            `tchebycheff`, equations (3) and (4) without the absolute value.
        length_cost: beta_1, taken off for each layer of the path.
        utopia: z of Tchebycheff in units of f / z*, a number or shape (K,); no path should exceed
            it.
    """

    kind: Scalarisation = "weighted_sum"
    length_cost: float = 0.0
    utopia: float | np.ndarray = 1.1

    @classmethod
    def of(cls, settings: AgentSettings) -> Utility:
        """The utility a run is searched and picked from by."""
        kind = cast(Scalarisation, settings.scalarisation)
        return cls(kind, settings.length_cost, settings.utopia)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Utility:
        """Read what `to_dict` wrote."""
        utopia = plain["utopia"]
        return cls(
            plain["kind"],
            float(plain["length_cost"]),
            np.array(utopia) if isinstance(utopia, list) else float(utopia),
        )

    @property
    def balanced(self) -> Utility:
        """The same by Tchebycheff: what a model lacks most, and not what it has on average.

        Where a front is not convex, as those of merges mostly are not, a weighted sum jumps from
        expert to expert, and no weights reach the models in between.
        """
        return replace(self, kind="tchebycheff")

    def to_dict(self) -> dict[str, Any]:
        """As a JSON-ready mapping, kept with a run."""
        utopia = np.asarray(self.utopia).tolist()
        return {"kind": self.kind, "length_cost": self.length_cost, "utopia": utopia}

    def __str__(self) -> str:
        """Say it in a few words."""
        cost = f" less {self.length_cost:g} a layer" if self.length_cost else ""
        return self.kind.replace("_", " ") + cost

    @staticmethod
    def most_even(vectors: np.ndarray) -> tuple[int, float]:
        """The model that keeps most of the best experts' scores on the task where it keeps least.

        Args:
            vectors: Outcomes f / z*, shape (N, K), N at least 1.

        Returns:
            Its number, and that share.
        """
        least = np.asarray(vectors).min(axis=1)
        return int(least.argmax()), float(least.max())

    def best(self, vectors: np.ndarray, lengths: np.ndarray, preference: np.ndarray) -> int:
        """Number of the best of several outcomes.

        Under a preference that does not weigh every objective, models of one utility may dominate
        each other: of equals those that no other dominates stay, of these the shortest path, of
        these the first.

        Args:
            vectors: Outcomes f / z*, shape (N, K), N at least 1.
            lengths: Layers of each path, shape (N,).
            preference: Shape (K,), on the simplex.

        Returns:
            The index, in [0, N).
        """
        worth = self(vectors, lengths, np.asarray(preference))
        equals = np.flatnonzero(worth >= worth.max() - TIE)
        # Of equal vectors all stay here: their lengths differ.
        unique, where = np.unique(vectors[equals], axis=0, return_inverse=True)
        equals = equals[non_dominated(unique)[where.ravel()]]
        return int(equals[np.asarray(lengths)[equals].argmin()])

    def __call__(
        self, vectors: np.ndarray, lengths: np.ndarray | int, preferences: np.ndarray
    ) -> np.ndarray:
        """Utilities.

        Args:
            vectors: Outcomes f / z*, shape (..., K).
            lengths: Layers T of each path, broadcastable to (...).
            preferences: Points of the simplex, broadcastable to (..., K).

        Returns:
            Shape (...).
        """
        ideal = np.broadcast_to(self.utopia, np.shape(vectors)[-1:])
        value = scalarise(vectors, preferences, self.kind, ideal)
        return np.asarray(value - self.length_cost * np.asarray(lengths))

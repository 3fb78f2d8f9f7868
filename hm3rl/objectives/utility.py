"""u_lambda(F) - beta_1 T: the one number a path is worth under a preference (HM3 equation (9))."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hm3rl.objectives.scalarisation import Scalarisation, scalarise


@dataclass(frozen=True)
class Utility:
    """Scalarises outcomes of paths; the length cost comes after, whatever the scalarisation.

    Environment, replay, climbs and decoding all use this, so that none pays another price.

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

"""Where preferences come from: drawn on the simplex, where the front is sparse, or one alone."""

from __future__ import annotations

import numpy as np

from hm3rl.objectives.preferences import sample_dirichlet, simplex_lattice

SPARSE_CANDIDATES = 8


class ServedPreferences:
    """The preferences an agent serves.

    Args:
        objectives: K.
        only: The one preference served, shape (K,), as when networks are trained for each
            preference anew; None: all of the simplex.
    """

    def __init__(self, objectives: int, only: np.ndarray | None = None) -> None:
        self.objectives = objectives
        self.only = None if only is None else np.asarray(only, dtype=np.float64)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Preferences drawn uniformly, lambda ~ Dirichlet(1, ..., 1), shape (n, K)."""
        if self.only is not None:
            return np.tile(self.only, (n, 1))
        return sample_dirichlet(n, self.objectives, rng)

    def spread(self, n: int, divisions: int, rng: np.random.Generator) -> np.ndarray:
        """All points of the simplex lattice, then draws up to n, shape (n, K)."""
        if self.only is not None:
            return np.tile(self.only, (n, 1))
        lattice = simplex_lattice(self.objectives, divisions)
        draws = self.draw(max(0, n - len(lattice)), rng)
        return np.concatenate([lattice, draws])[:n]

    def behaviour(self, n: int, divisions: int, rng: np.random.Generator) -> np.ndarray:
        """Lattice points and Dirichlet draws, each with probability one half, shape (n, K)."""
        if self.only is not None:
            return np.tile(self.only, (n, 1))
        lattice = simplex_lattice(self.objectives, divisions)
        grid = lattice[rng.integers(len(lattice), size=n)]
        draws = self.draw(n, rng)
        return np.where((rng.random(n) < 0.5)[:, None], grid, draws)

    def sparse(self, front: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Preferences in whose direction the front reaches least far.

        Half are drawn uniformly. Each of the others is the worst of a handful, by the distance from
        the origin to the attainment surface along the preference, max over the front of
        min_k f_k / lambda_k.

        Args:
            front: Non-dominated f / z*, shape (F, K); may be empty.
            n: How many.
            rng: Source of randomness.

        Returns:
            Shape (n, K).
        """
        plain = self.draw(n, rng)
        if len(front) == 0 or self.only is not None:
            return plain
        shape = (n, SPARSE_CANDIDATES, self.objectives)
        candidates = self.draw(n * SPARSE_CANDIDATES, rng).reshape(shape)
        reach = (front / np.maximum(candidates[:, :, None, :], 1e-3)).min(axis=3).max(axis=2)
        sparse = candidates[np.arange(n), reach.argmin(axis=1)]
        return np.where((rng.random(n) < 0.5)[:, None], plain, sparse)

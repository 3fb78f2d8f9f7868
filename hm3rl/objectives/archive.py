"""The archive: keys and vectors of everything a run has scored, and its non-dominated part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hm3rl.objectives.indicators import hypervolume
from hm3rl.objectives.utility import Utility


class Archive:
    """Scored candidates by key.

    Args:
        objectives: Names of the objectives, in the order of the vectors.
        z_star: Normalising scores z*, shape (K,), all positive: the best source expert on each
            task.
    """

    def __init__(self, objectives: Sequence[str], z_star: Sequence[float] | np.ndarray) -> None:
        self.objectives = tuple(objectives)
        self.z_star = np.asarray(z_star, dtype=np.float64)
        if self.z_star.shape != (len(self.objectives),) or not (self.z_star > 0).all():
            raise ValueError(
                f"z_star must be {len(self.objectives)} positive numbers, got {self.z_star}"
            )
        self._rows: dict[str, np.ndarray] = {}
        self._front: dict[str, np.ndarray] = {}
        self._hypervolume = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys in the order of arrival."""
        return tuple(self._rows)

    @property
    def vectors(self) -> np.ndarray:
        """Raw scores of all candidates, shape (N, K), in the order of `keys`."""
        return np.array(list(self._rows.values())).reshape(len(self._rows), len(self.objectives))

    @property
    def normalised(self) -> np.ndarray:
        """Scores divided by z*, shape (N, K)."""
        return self.normalise(self.vectors)

    def normalise(self, vectors: np.ndarray) -> np.ndarray:
        """Raw scores as f / z*, any shape that ends in K: what every utility and front goes by."""
        return np.asarray(vectors / self.z_star)

    def vector(self, key: str) -> np.ndarray:
        """Raw scores of one candidate, shape (K,)."""
        return self._rows[key]

    def add(self, key: str, scores: Sequence[float] | np.ndarray) -> bool:
        """Add a candidate; a key that is there already stays as it is.

        Args:
            key: Content hash of the candidate.
            scores: Raw task scores, shape (K,).

        Returns:
            Whether it is new and non-dominated now.
        """
        if key in self._rows:
            return False
        vector = np.asarray(scores, dtype=np.float64)
        if vector.shape != self.z_star.shape or not np.isfinite(vector).all():
            raise ValueError(
                f"scores of {key} must be {len(self.z_star)} finite numbers, got {vector}"
            )
        self._rows[key] = vector
        point = self.normalise(vector)
        if any((other >= point).all() for other in self._front.values()):
            return False
        self._front = {k: v for k, v in self._front.items() if not (point >= v).all()}
        self._front[key] = point
        self._hypervolume = hypervolume(np.array(list(self._front.values())))
        return True

    def front_keys(self) -> tuple[str, ...]:
        """Keys of the non-dominated candidates in order of arrival; of equal vectors the first."""
        return tuple(self._front)

    def front(self) -> np.ndarray:
        """Normalised scores of the non-dominated candidates, shape (F, K)."""
        return np.array(list(self._front.values())).reshape(len(self._front), len(self.objectives))

    def hypervolume(self) -> float:
        """Hypervolume of the front of f / z*, reference 0, not clipped: it may exceed 1."""
        return self._hypervolume

    def best(self, preference: np.ndarray, utility: Utility, lengths: Mapping[str, int]) -> str:
        """The candidate with the highest utility under a preference; of equals see `Utility.best`.

        Args:
            preference: Shape (K,), on the simplex.
            utility: What a model is worth.
            lengths: Layers of the path of each candidate to choose from, by key.

        Returns:
            Its key.
        """
        keys = [key for key in self._rows if key in lengths]
        if not keys:
            raise ValueError("nothing to choose from")
        layers = np.array([lengths[key] for key in keys])
        points = self.normalise(np.array([self._rows[key] for key in keys]))
        return keys[utility.best(points, layers, preference)]

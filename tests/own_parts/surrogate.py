"""A surrogate: the mean of the nearest paths, in recipe features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hm3rl.config.agents import SurrogateSettings
from hm3rl.config.values import number
from hm3rl.registry import register
from hm3rl.surrogate.features import PathFeatures


@dataclass
class NearestSettings(SurrogateSettings):
    """Options of `nearest`."""

    neighbours: int = number(5, least=1)


@register("surrogate", "nearest", options=NearestSettings)
class Nearest:
    """Mean and variance of the k nearest paths' outputs."""

    def __init__(self, outputs: int, depths: np.ndarray, options: NearestSettings) -> None:
        self.neighbours = options.neighbours
        self.log_parameters = torch.zeros(outputs, 0)

    def fit(self, features: PathFeatures, targets: np.ndarray, steps: int) -> None:
        """Remember the data."""
        self._known, self._targets = features.recipe, targets

    def _near(self, features: PathFeatures) -> np.ndarray:
        rows = features.recipe[:, None] - self._known[None]
        order = np.square(rows).reshape(*rows.shape[:2], -1).sum(axis=2).argsort(axis=1)
        near: np.ndarray = self._targets[order[:, : self.neighbours]]
        return near

    def mean(self, features: PathFeatures) -> np.ndarray:
        """Means, shape (n, O)."""
        return np.asarray(self._near(features).mean(axis=1))

    def marginal(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances, shape (n, O)."""
        near = self._near(features)
        return near.mean(axis=1), near.var(axis=1) + 1e-4

    def posterior(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Means, and diagonal covariances of shape (O, n, n)."""
        mean, variance = self.marginal(features)
        return mean, np.stack([np.diag(column) for column in variance.T])

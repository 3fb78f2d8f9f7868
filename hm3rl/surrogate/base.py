"""What predicts the scores of paths from their features: the part of the surrogate to exchange."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from hm3rl.config.agents import SurrogateSettings
from hm3rl.surrogate.features import PathFeatures


class Regressor(Protocol):
    """A Bayesian regression of O outputs on the features of paths.

    It is registered as a `surrogate` and made with `(outputs, depths, options)`: O; the depth of
    each recipe feature, integers of shape (F,); its own options.

    Attributes:
        log_parameters: Its hyper-parameters, which are stored with the agent.
    """

    log_parameters: torch.Tensor

    def fit(self, features: PathFeatures, targets: np.ndarray, steps: int) -> None:
        """Condition on data.

        Args:
            features: Of n paths.
            targets: Shape (n, O).
            steps: Steps on the hyper-parameters first; 0 keeps them.
        """
        ...

    def mean(self, features: PathFeatures) -> np.ndarray:
        """Expected outputs, shape (n, O)."""
        ...

    def marginal(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of each path's expected outputs, both of shape (n, O)."""
        ...

    def posterior(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Joint mean, shape (n, O), and covariances, shape (O, n, n), of the expected outputs."""
        ...


class RegressorFactory(Protocol):
    """What `register("surrogate", NAME)` decorates."""

    def __call__(self, outputs: int, depths: np.ndarray, options: SurrogateSettings) -> Regressor:
        """A regressor that has seen no data."""
        ...

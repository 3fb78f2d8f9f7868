"""Bayesian linear regression of outcomes on path features, several outputs at once, in closed form.

The same features as `surrogate.gp`, without interactions between layers: a hundred weights instead
of a kernel between all paths. It is exact where gains add up over the layers and a change of member
costs something, and it costs the same however many paths are known, which is what deep paths and
thousands of evaluations need; the Gaussian process is the better model of real networks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hm3rl.config.agents import SurrogateSettings
from hm3rl.surrogate.features import OVERALL, PathFeatures

RECIPE, BY_DEPTH, WHOLE, NOISE = range(4)
START = (0.0, -2.0, -2.0, -3.0)
"""Logs of the prior variances of the three blocks of weights and of the noise, before a fit."""

SMALLEST, LARGEST = -14.0, 5.0
"""Bounds of the logs."""


class PathRegression:
    """Independent Bayesian linear models of O outputs of the same paths.

    The weights of each block of features (recipes, changes of member by depth, properties of the
    whole path) have a common prior variance, found with the noise by evidence maximisation (MacKay,
    1992). It offers what `PathGP` offers.

    Args:
        outputs: O.
        depths: Not used: its prior does not vary over depth.
        options: Not used: `PathSurrogate` reads the steps of the fits.
    """

    def __init__(
        self, outputs: int, depths: np.ndarray, options: SurrogateSettings | None = None
    ) -> None:
        self.outputs = outputs
        self.log_parameters = torch.tensor([START] * outputs, dtype=torch.float64)

    def fit(self, features: PathFeatures, targets: np.ndarray, steps: int) -> None:
        """Condition on data, after some fixed-point steps on the hyper-parameters.

        Args:
            features: Of n paths.
            targets: Shape (n, O).
            steps: Steps; 0 keeps the hyper-parameters.
        """
        values = torch.as_tensor(targets, dtype=torch.float64)
        self._shift = values.mean(dim=0)
        self._scale = values.std(dim=0).clamp(min=1e-3)
        y = ((values - self._shift) / self._scale).T
        self._centres = [torch.as_tensor(block.mean(axis=0)) for block in features]
        self._sizes = [max(float(block.var(axis=0).sum()), 1e-9) for block in features]
        recipe, transition = (block.shape[1] for block in features)
        widths = torch.tensor([recipe, transition - OVERALL, OVERALL])
        self._blocks = torch.repeat_interleave(torch.arange(NOISE), widths)
        design = self._design(features)
        gram, moment = design.T @ design, y @ design
        for _ in range(steps):
            self._condition(gram, moment)
            self._maximise(design, y)
        self._condition(gram, moment)

    def _design(self, features: PathFeatures) -> Tensor:
        """Centred features in units of their blocks' spread, shape (n, F)."""
        parts = [
            (torch.as_tensor(block) - centre) / size**0.5
            for block, centre, size in zip(features, self._centres, self._sizes, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def _condition(self, gram: Tensor, moment: Tensor) -> None:
        """Posterior of the weights: means (O, F) and a root of the covariances (O, F, F)."""
        noise = self.log_parameters[:, NOISE].exp()
        prior = self.log_parameters[:, self._blocks].exp()
        root = prior.sqrt()
        # In units of the prior the precision is I + D G D / noise, which is well conditioned.
        inner = root[:, :, None] * gram * root[:, None, :] / noise[:, None, None]
        factor = torch.linalg.cholesky(inner + torch.eye(gram.shape[0], dtype=gram.dtype))
        eye = torch.eye(gram.shape[0], dtype=gram.dtype).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        self._root = root[:, :, None] * inverse.transpose(1, 2)
        projected = self._root.transpose(1, 2) @ moment[:, :, None]
        self._mean = (self._root @ projected).squeeze(-1) / noise[:, None]

    def _maximise(self, design: Tensor, y: Tensor) -> None:
        """One fixed-point step: each variance becomes what its well-determined weights show."""
        prior = self.log_parameters[:, self._blocks].exp()
        determined = 1.0 - (self._root**2).sum(dim=2) / prior
        found = self.log_parameters.clone()
        for block in range(NOISE):
            inside = self._blocks == block
            count = determined[:, inside].sum(dim=1).clamp(min=1e-3)
            found[:, block] = ((self._mean[:, inside] ** 2).sum(dim=1) / count).log()
        error = ((y - self._mean @ design.T) ** 2).sum(dim=1)
        free = (y.shape[1] - determined.sum(dim=1)).clamp(min=1.0)
        found[:, NOISE] = (error / free).log()
        self.log_parameters = found.clamp(SMALLEST, LARGEST)

    def mean(self, features: PathFeatures) -> np.ndarray:
        """Posterior means, shape (m, O)."""
        mean = self._design(features) @ self._mean.T
        return (mean * self._scale + self._shift).numpy()

    def marginal(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means and variances of the noise-free outcomes, both of shape (m, O)."""
        spread = self._design(features) @ self._root
        variance = (spread**2).sum(dim=2).T * self._scale**2
        return self.mean(features), variance.numpy()

    def posterior(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of the noise-free outcomes of m paths, jointly.

        Returns:
            Means of shape (m, O) and covariances of shape (O, m, m).
        """
        spread = self._design(features) @ self._root
        covariance = spread @ spread.transpose(1, 2) * self._scale[:, None, None] ** 2
        return self.mean(features), covariance.numpy()

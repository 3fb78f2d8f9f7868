"""Gaussian processes over complete paths, several outputs at once, in closed form.

The kernel is a sum: linear and exponential in the recipes by depth, linear in the transitions. The
linear part learns from few paths (zoo.md: a ridge regression on one-hot choices ranks unseen paths
well), the exponential part catches what layers do together. On 249 paths of the tiny zoo recipes
predicted better than one-hot choices, and better than both together. Hyper-parameters maximise the
marginal likelihood (Rasmussen and Williams, 2006, equation 5.8).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hm3rl.agents.features import PathFeatures

JITTER = 1e-6


class PathGP:
    """Independent Gaussian processes for O outputs over the same paths.

    Args:
        outputs: O.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        # logs of: amplitudes (linear, exponential, transition), length, noise
        start = [0.0, -1.0, -2.0, 0.0, -3.0]
        self.log_parameters = torch.tensor([start] * outputs, dtype=torch.float64)
        self._features: PathFeatures | None = None

    def fit(self, features: PathFeatures, targets: np.ndarray, steps: int) -> None:
        """Condition on data, after some gradient steps on the hyper-parameters.

        Args:
            features: Of n paths.
            targets: Shape (n, O).
            steps: Adam steps on the log marginal likelihood; 0 keeps the hyper-parameters.
        """
        values = torch.as_tensor(targets, dtype=torch.float64)
        self._shift = values.mean(dim=0)
        self._scale = values.std(dim=0).clamp(min=1e-3)
        y = ((values - self._shift) / self._scale).T[:, :, None]
        self._features = features
        self._norms = _norms(features)
        parts = self._parts(features, features)
        if steps:
            self._optimise(parts, y, steps)
        with torch.no_grad():
            self._factor = torch.linalg.cholesky(self._kernel(parts) + self._noise(len(values)))
            self._weights = torch.cholesky_solve(y, self._factor)

    def _optimise(self, parts: Tensor, y: Tensor, steps: int) -> None:
        parameters = self.log_parameters.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([parameters], lr=0.1)
        for _ in range(steps):
            self.log_parameters = parameters
            factor = torch.linalg.cholesky(self._kernel(parts) + self._noise(y.shape[1]))
            white = torch.linalg.solve_triangular(factor, y, upper=False)
            fit = 0.5 * (white**2).sum() + factor.diagonal(dim1=1, dim2=2).log().sum()
            # A weak prior keeps parameters that the data say nothing about where they started.
            prior = 0.05 * (parameters**2).sum()
            optimiser.zero_grad()
            (fit + prior).backward()
            optimiser.step()
            with torch.no_grad():
                parameters.clamp_(-7.0, 4.0)
        self.log_parameters = parameters.detach()

    def _noise(self, n: int) -> Tensor:
        noise = self.log_parameters[:, -1].exp() + JITTER
        return noise[:, None, None] * torch.eye(n, dtype=torch.float64)

    def _parts(self, left: PathFeatures, right: PathFeatures) -> Tensor:
        """Gram matrices and distances, shape (3, n, m).

        Linear recipe, square distance of recipes, linear transition.


        Everything heavy is torch's, whose number of threads the run decides.
        """
        recipe, transition = (
            (torch.as_tensor(block - centre), torch.as_tensor(other - centre), size)
            for block, other, (centre, size) in zip(left, right, self._norms, strict=True)
        )
        gram = recipe[0] @ recipe[1].T / recipe[2]
        distance = _square_distances(recipe[0], recipe[1]) / recipe[2]
        return torch.stack([gram, distance, transition[0] @ transition[1].T / transition[2]])

    def _kernel(self, parts: Tensor) -> Tensor:
        """Kernel matrices, shape (O, n, m)."""
        p = self.log_parameters.exp()[:, :, None, None]
        return p[:, 0] * parts[0] + p[:, 1] * torch.exp(-parts[1] / p[:, 3]) + p[:, 2] * parts[2]

    def mean(self, features: PathFeatures) -> np.ndarray:
        """Posterior means, shape (m, O)."""
        assert self._features is not None
        with torch.no_grad():
            cross = self._kernel(self._parts(features, self._features))
            mean = (cross @ self._weights).squeeze(-1).T * self._scale + self._shift
        return mean.numpy()

    def marginal(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means and variances of the noise-free outcomes, both of shape (m, O)."""
        assert self._features is not None
        with torch.no_grad():
            cross = self._kernel(self._parts(features, self._features))
            white = torch.linalg.solve_triangular(self._factor, cross.transpose(1, 2), upper=False)
            variance = self._prior_variance(features) - (white**2).sum(dim=1)
            mean = (cross @ self._weights).squeeze(-1).T * self._scale + self._shift
        return mean.numpy(), (variance.T * self._scale**2).numpy()

    def _prior_variance(self, features: PathFeatures) -> Tensor:
        """Diagonal of the kernel, shape (O, m)."""
        rows = [
            torch.as_tensor(((block - norm[0]) ** 2).sum(axis=1) / norm[1])
            for block, norm in zip(features, self._norms, strict=True)
        ]
        p = self.log_parameters.exp()[:, :, None]
        return p[:, 0] * rows[0] + p[:, 1] + p[:, 2] * rows[1]

    def posterior(self, features: PathFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of the noise-free outcomes of m paths, jointly.

        Returns:
            Means of shape (m, O) and covariances of shape (O, m, m).
        """
        assert self._features is not None
        with torch.no_grad():
            cross = self._kernel(self._parts(features, self._features))
            white = torch.linalg.solve_triangular(self._factor, cross.transpose(1, 2), upper=False)
            own = self._kernel(self._parts(features, features))
            covariance = (own - white.transpose(1, 2) @ white) * self._scale[:, None, None] ** 2
            mean = (cross @ self._weights).squeeze(-1).T * self._scale + self._shift
        return mean.numpy(), covariance.numpy()


def _square_distances(left: Tensor, right: Tensor) -> Tensor:
    squares = (left**2).sum(dim=1)[:, None] + (right**2).sum(dim=1)[None, :]
    return (squares - 2.0 * left @ right.T).clamp(min=0.0)


def _norms(features: PathFeatures) -> list[tuple[np.ndarray, float]]:
    """Centre of each block and its mean square distance from there."""
    out = []
    for block in features:
        centre = block.mean(axis=0)
        spread = float(((block - centre) ** 2).sum(axis=1).mean())
        out.append((centre, max(spread, 1e-9)))
    return out

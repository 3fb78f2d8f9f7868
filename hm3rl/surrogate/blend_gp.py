"""Gaussian processes over blends, differentiable in the blends.

A blend is a coefficient for each expert's task vector at each place of a model (the stem, then each
layer). Each coefficient has a length scale of its own, for each outcome apart, found by maximum a
posteriori (Rasmussen and Williams, 2006, equation 5.8). Its prior grows with the root of their
number, as distances do, so that many coefficients are no harder than few (Hvarfner et al., "Vanilla
Bayesian Optimization Performs Great in High Dimensions", ICML 2024, arXiv 2402.02229). Which other
ways to see blends foretell scores worse is measured in `experiments/pools/metrics.py`.

With a prior mean m (`score_prior.py`) outcomes are a m(x) + b + f(x), the process f being what m
misses: a is near 1, b near 0 and f of the size of m's errors where it was judged, or of its misses
here where these are larger, so that a few points do, and a wrong prior is outgrown.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

JITTER = 1e-6
NOISE, SCALES = range(2)
NOISE_MODE, NOISE_SPREAD = -5.0, 1.0
"""Mode of the log of the noise's variance, in units of the outcomes' variance, and how far from it
it lies."""

SCALE_SPREAD = 3.0**0.5
"""The same spread for the logs of the length scales."""

SMALLEST, LARGEST = -9.0, 6.0
"""Bounds of the logs, so that the kernel stays a number."""

SLOPE, OFFSET = 0.3, 0.1
"""Prior standard deviations of a and of b, the latter in units of the outcomes."""


class PriorMean(Protocol):
    """What is expected of blends before any was scored.

    Attributes:
        error: Root mean squared error on tasks it was not trained on, in units of the outcomes.
    """

    error: float

    def __call__(self, blends: Tensor) -> Tensor:
        """Outcomes of blends (m, 1 + L, N), shape (m, O), with gradients in them."""


class Inputs(NamedTuple):
    """Blends as the kernel sees them.

    Attributes:
        scaled: Coefficients by the length scales of each outcome, shape (O, m, (1 + L) N).
        trend: What a and b multiply, shape (O, m, 2); (O, m, 0) without a prior mean.
    """

    scaled: Tensor
    trend: Tensor


class Posterior(NamedTuple):
    """Marginal posterior of m blends.

    Attributes:
        mean: Shape (m, O).
        std: Standard deviations of the noise-free outcomes, shape (m, O).
    """

    mean: Tensor
    std: Tensor


class BlendGP:
    """Independent Gaussian processes for O outcomes of the same blends.

    Args:
        outputs: O.
        depth: Layers of the model.
        experts: N.
        prior_mean: What is expected of blends at first; None: the same of all.
    """

    def __init__(
        self, outputs: int, depth: int, experts: int, prior_mean: PriorMean | None = None
    ) -> None:
        self.outputs = outputs
        self.prior_mean = prior_mean
        coefficients = (1 + depth) * experts
        # The mode of a log-normal with the location sqrt(2) + log(D) / 2 of Hvarfner et al.
        self._mode = np.sqrt(2.0) + 0.5 * np.log(coefficients) - SCALE_SPREAD**2
        self.log_parameters = torch.full((outputs, SCALES + coefficients), self._mode).double()
        self.log_parameters[:, NOISE] = NOISE_MODE

    def fit(self, blends: np.ndarray, outcomes: np.ndarray, steps: int) -> None:
        """Condition on data, after the hyper-parameters followed them.

        Args:
            blends: Shape (n, 1 + L, N).
            outcomes: Shape (n, O).
            steps: Most iterations of L-BFGS on the log posterior of the hyper-parameters; 0 keeps
                them.
        """
        values = torch.as_tensor(outcomes, dtype=torch.float64)
        self._known = torch.as_tensor(blends, dtype=torch.float64)
        with torch.no_grad():
            expected = self._expected(self._known)
        spread = (values - expected).std(dim=0, correction=0)
        if self.prior_mean is None:
            self._shift = values.mean(dim=0)
            self._scale = spread.clamp(min=1e-3)
        else:
            self._shift = torch.zeros(self.outputs, dtype=torch.float64)
            self._scale = spread.clamp(min=self.prior_mean.error)
        y = ((values - expected - self._shift) / self._scale).T[:, :, None]
        self._known_trend = self._trend(expected)
        if steps:
            self._optimise(y, steps)
        with torch.no_grad():
            self._known_inputs = self._inputs_of_known()
            kernel = self._kernel(self._known_inputs, self._known_inputs)
            kernel = kernel + self._noise(len(values))
            self._factor = torch.linalg.cholesky(kernel)
            self._weights = torch.cholesky_solve(y, self._factor)
            self._inverse = torch.cholesky_inverse(self._factor)

    def _optimise(self, y: Tensor, steps: int) -> None:
        parameters = self.log_parameters.clone().requires_grad_(True)
        optimiser = torch.optim.LBFGS([parameters], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            self.log_parameters = parameters.clamp(SMALLEST, LARGEST)
            known = self._inputs_of_known()
            factor = torch.linalg.cholesky(self._kernel(known, known) + self._noise(y.shape[1]))
            white = torch.linalg.solve_triangular(factor, y, upper=False)
            fit = 0.5 * (white**2).sum() + factor.diagonal(dim1=1, dim2=2).log().sum()
            noise = (self.log_parameters[:, NOISE] - NOISE_MODE) / NOISE_SPREAD
            scales = (self.log_parameters[:, SCALES:] - self._mode) / SCALE_SPREAD
            found = fit + 0.5 * (noise**2).sum() + 0.5 * (scales**2).sum()
            found.backward()
            return found

        optimiser.step(loss)
        self.log_parameters = parameters.detach().clamp(SMALLEST, LARGEST)

    def _noise(self, n: int) -> Tensor:
        noise = self.log_parameters[:, NOISE].exp() + JITTER
        return noise[:, None, None] * torch.eye(n, dtype=torch.float64)

    def _expected(self, blends: Tensor) -> Tensor:
        """The prior mean of blends (m, 1 + L, N), shape (m, O)."""
        if self.prior_mean is None:
            return torch.zeros(len(blends), self.outputs, dtype=torch.float64)
        return self.prior_mean(blends)

    def _trend(self, expected: Tensor) -> Tensor:
        """What a and b multiply where so much is expected (m, O); see `Inputs`."""
        if self.prior_mean is None:
            return torch.zeros(self.outputs, len(expected), 0, dtype=torch.float64)
        slope = SLOPE * (expected - 0.5)
        parts = torch.stack([slope, torch.full_like(slope, OFFSET)], dim=2)
        return (parts / self._scale[:, None]).transpose(0, 1)

    def _inputs_of_known(self) -> Inputs:
        return Inputs(self._scaled(self._known), self._known_trend)

    def _inputs(self, blends: Tensor) -> tuple[Inputs, Tensor]:
        """Blends (m, 1 + L, N) for the kernel, and what is expected of them, shape (m, O)."""
        expected = self._expected(blends)
        scaled = self._scaled(blends)
        return Inputs(scaled, self._trend(expected)), expected

    def _scaled(self, blends: Tensor) -> Tensor:
        return blends.flatten(1)[None] * (-self.log_parameters[:, SCALES:]).exp()[:, None]

    def _kernel(self, left: Inputs, right: Inputs) -> Tensor:
        """Kernel matrices, shape (O, n, m)."""
        one, other = left.scaled, right.scaled
        gram = one @ other.transpose(1, 2)
        own = (one**2).sum(dim=2)[:, :, None] + (other**2).sum(dim=2)[:, None, :]
        distance = (own - 2.0 * gram).clamp(min=0.0)
        # Matern 5/2; the square root has no gradient at 0.
        far = (5.0 * distance + 1e-12).sqrt()
        matern = (1.0 + far + 5.0 / 3.0 * distance) * torch.exp(-far)
        trend = left.trend @ right.trend.transpose(1, 2)
        return matern + trend

    def _prior_variance(self, inputs: Inputs) -> Tensor:
        return 1.0 + (inputs.trend**2).sum(dim=2)

    def marginal(self, blends: Tensor) -> Posterior:
        """Posterior of m blends of shape (m, 1 + L, N), with gradients in them."""
        inputs, expected = self._inputs(blends)
        cross = self._kernel(inputs, self._known_inputs)
        mean = (cross @ self._weights).squeeze(-1).T * self._scale + self._shift + expected
        explained = ((cross @ self._inverse) * cross).sum(dim=2)
        variance = (self._prior_variance(inputs) - explained).clamp(min=1e-10)
        return Posterior(mean, variance.sqrt().T * self._scale)

    def samples(self, blends: Tensor, count: int, rng: np.random.Generator) -> np.ndarray:
        """Joint posterior samples of the noise-free outcomes.

        Args:
            blends: Shape (m, 1 + L, N).
            count: S.
            rng: Source of randomness.

        Returns:
            Shape (S, m, O).
        """
        with torch.no_grad():
            inputs, expected = self._inputs(blends)
            cross = self._kernel(inputs, self._known_inputs)
            mean = (cross @ self._weights).squeeze(-1).T
            white = torch.linalg.solve_triangular(self._factor, cross.transpose(1, 2), upper=False)
            covariance = self._kernel(inputs, inputs) - white.transpose(1, 2) @ white
            # Near-equal blends make it singular, and rounding indefinite: no Cholesky factor then.
            values, vectors = torch.linalg.eigh(covariance)
            root = vectors * values.clamp(min=0.0).sqrt()[:, None, :]
            normal = torch.as_tensor(rng.standard_normal((self.outputs, len(mean), count)))
            drawn = mean + (root @ normal).permute(2, 1, 0)
            return (drawn * self._scale + self._shift + expected).numpy()

"""Gaussian processes over blends, differentiable in the blends.

A blend is a coefficient for each expert's task vector at each place of a model (the stem, then each
layer). Places are not independent: what is alike over the depth is cheap to learn, what differs
from layer to layer is dear. So blends are seen in a smooth basis over the depth (mean, half a
cosine, a whole one, ...), and the prior relevance of a component falls with its frequency: coarse
to fine is a prior here, and not a schedule. Relevances are learned by maximum a posteriori (MacKay,
1996; Rasmussen and Williams, 2006, equation 5.8), one for each component and each expert, for each
outcome apart.

With a prior mean m (`score_prior.py`) outcomes are a m(x) + b + f(x), the process f being what m
misses: a is near 1, b near 0 and f of the size of m's errors where it was judged, so that a few
points do, and a wrong prior is outgrown.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

JITTER = 1e-6
LINEAR, SMOOTH, NOISE, HEAD = range(4)
START = (-3.0, 0.0, -4.0)
"""Logs of the amplitudes of the linear and the smooth part and of the noise, before a fit."""

DECAY = 0.5
"""How fast the prior relevance falls with the frequency f: as (1 + f)^(-2 DECAY)."""


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
        scaled: Centred components with the relevances of each outcome, shape (O, m, (1 + L) N).
        trend: What a and b multiply, shape (O, m, 2); (O, m, 0) without a prior mean.
    """

    scaled: Tensor
    trend: Tensor


def frequencies(depth: int) -> np.ndarray:
    """Frequencies of the components of `depth_basis`, shape (1 + L,); the stem's counts as 1."""
    return np.concatenate([[0.0, 1.0], np.arange(1.0, depth)])


def depth_basis(depth: int) -> np.ndarray:
    """A smooth basis over the stem and the layers.

    Args:
        depth: L.

    Returns:
        Shape (1 + L, 1 + L): rows are components, columns places (the stem first). Row 0 is the
        mean over the layers, row 1 the stem less that mean, the others cosines over the layers of
        rising frequency, scaled so that a component's size is its root mean square over the layers.
    """
    layers = (np.arange(depth) + 0.5) / depth
    basis = np.zeros((1 + depth, 1 + depth))
    basis[0, 1:] = 1.0 / depth
    basis[1] = -basis[0]
    basis[1, 0] = 1.0
    for f in range(1, depth):
        basis[1 + f, 1:] = np.sqrt(2.0) * np.cos(np.pi * f * layers) / depth
    return basis


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
        self.basis = torch.as_tensor(depth_basis(depth))
        self.prior = torch.as_tensor(-2.0 * DECAY * np.log1p(frequencies(depth)))
        start = torch.tensor(START, dtype=torch.float64)
        one = torch.cat([start, self.prior, torch.zeros(experts, dtype=torch.float64)])
        self.log_parameters = one.repeat(outputs, 1)
        self._components = len(self.prior)

    def fit(self, blends: np.ndarray, outcomes: np.ndarray, steps: int) -> None:
        """Condition on data, after some gradient steps on the hyper-parameters.

        Args:
            blends: Shape (n, 1 + L, N).
            outcomes: Shape (n, O).
            steps: Adam steps on the log posterior of the hyper-parameters; 0 keeps them.
        """
        values = torch.as_tensor(outcomes, dtype=torch.float64)
        known = torch.as_tensor(blends, dtype=torch.float64)
        if self.prior_mean is None:
            self._shift = values.mean(dim=0)
            self._scale = values.std(dim=0, correction=0).clamp(min=1e-3)
        else:
            self._shift = torch.zeros(self.outputs, dtype=torch.float64)
            self._scale = torch.full_like(self._shift, self.prior_mean.error)
        with torch.no_grad():
            expected = self._expected(known)
        y = ((values - expected - self._shift) / self._scale).T[:, :, None]
        components = self._components_of(known)
        self._centre = components.mean(dim=0)
        self._known, self._known_trend = components - self._centre, self._trend(expected)
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
        optimiser = torch.optim.Adam([parameters], lr=0.1)
        prior, start = self.prior, torch.tensor(START, dtype=torch.float64)
        for _ in range(steps):
            self.log_parameters = parameters
            known = self._inputs_of_known()
            factor = torch.linalg.cholesky(self._kernel(known, known) + self._noise(y.shape[1]))
            white = torch.linalg.solve_triangular(factor, y, upper=False)
            fit = 0.5 * (white**2).sum() + factor.diagonal(dim1=1, dim2=2).log().sum()
            general = parameters[:, :HEAD] - start
            places = parameters[:, HEAD : HEAD + self._components] - prior
            experts = parameters[:, HEAD + self._components :]
            held = 0.05 * (general[:, :NOISE] ** 2).sum() + 0.1 * (general[:, NOISE] ** 2).sum()
            held = held + 0.5 * (places**2).sum() + 0.25 * (experts**2).sum()
            optimiser.zero_grad()
            (fit + held).backward()
            optimiser.step()
            with torch.no_grad():
                parameters.clamp_(-9.0, 4.0)
        self.log_parameters = parameters.detach()

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
        scaled = self._scaled(self._components_of(blends) - self._centre)
        return Inputs(scaled, self._trend(expected)), expected

    def _components_of(self, blends: Tensor) -> Tensor:
        """Components of blends (m, 1 + L, N), shape (m, 1 + L, N)."""
        return torch.einsum("jr,mrn->mjn", self.basis, blends)

    def _scaled(self, components: Tensor) -> Tensor:
        """Centred components with the relevances of each outcome, shape (O, m, (1 + L) N)."""
        places = self.log_parameters[:, HEAD : HEAD + self._components]
        experts = self.log_parameters[:, HEAD + self._components :]
        relevance = (0.5 * (places[:, :, None] + experts[:, None, :])).exp()
        return (components[None] * relevance[:, None]).flatten(2)

    def _kernel(self, left: Inputs, right: Inputs) -> Tensor:
        """Kernel matrices, shape (O, n, m)."""
        one, other = left.scaled, right.scaled
        gram = one @ other.transpose(1, 2)
        own = (one**2).sum(dim=2)[:, :, None] + (other**2).sum(dim=2)[:, None, :]
        distance = (own - 2.0 * gram).clamp(min=0.0)
        p = self.log_parameters[:, :HEAD].exp()[:, :, None, None]
        # Matern 5/2; the square root has no gradient at 0.
        far = (5.0 * distance + 1e-12).sqrt()
        matern = (1.0 + far + 5.0 / 3.0 * distance) * torch.exp(-far)
        trend = left.trend @ right.trend.transpose(1, 2)
        return p[:, LINEAR] * gram + p[:, SMOOTH] * matern + trend

    def _prior_variance(self, inputs: Inputs) -> Tensor:
        p = self.log_parameters[:, :HEAD].exp()
        linear = p[:, LINEAR, None] * (inputs.scaled**2).sum(dim=2)
        return linear + p[:, SMOOTH, None] + (inputs.trend**2).sum(dim=2)

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

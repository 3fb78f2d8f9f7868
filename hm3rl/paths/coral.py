"""The alignment network, trained by Deep CORAL (Sun and Saenko 2016, arXiv 1607.01719).

HM3 names an MLP(m, l, t) and leaves its form open. Here every (member, layer, depth) on a path has
a network of its own, because what precedes differs from path to path. It starts as the diagonal
map and adds a nonlinear correction, in coordinates in which source and target have unit variance:

    u = (z - m) / sigma_S,   z' = sigma_T * (u + B gelu(A u + a)) + n

The loss is CORAL's distance of covariances |C(z') - T|^2_F / (4 d^2), here of correlations, which
keeps one large channel from deciding alone, plus the squared distance of means over d. Deviating
from the paper, nothing is trained by the actor-critic: no task score enters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn import functional

from hm3rl.paths.alignment import SHRINKAGE, check_states
from hm3rl.paths.statistics import Moments

STEPS = 100
LEARNING_RATE = 1e-2
STATES = 4096
"""Most states a gradient step sees; of a larger batch every n-th is taken."""


@dataclass(frozen=True)
class MlpMap:
    """A trained network; hidden width d.

    Attributes:
        key: See `ScalarMap`.
        weights: A (d, d), a (d,), B (d, d), all fp32.
        source: Mean and standard deviation of the path's states, each (d,).
        target: Those of the layer's native inputs.
    """

    key: str
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = field(compare=False)
    source: tuple[torch.Tensor, torch.Tensor] = field(compare=False)
    target: tuple[torch.Tensor, torch.Tensor] = field(compare=False)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states of shape (..., d), computed in fp32."""
        (m, sigma), (n, tau) = self.source, self.target
        corrected = _corrected((hidden.float() - m) / sigma, self.weights)
        return (corrected * tau + n).to(hidden.dtype)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(tensor.nbytes for tensor in (*self.weights, *self.source, *self.target))


def _corrected(
    states: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    inner, bias, outer = weights
    return states + functional.gelu(states @ inner.T + bias) @ outer.T


def coral_loss(states: torch.Tensor, correlation: torch.Tensor) -> torch.Tensor:
    """Distance of standardised states from zero mean and the target's correlation.

    Args:
        states: Shape (N, d).
        correlation: Shape (d, d).

    Returns:
        Scalar, >= 0.
    """
    mean = states.mean(dim=0)
    centred = states - mean
    covariance = centred.T @ centred / len(states)
    width = states.shape[1]
    distance = (covariance - correlation).square().sum() / (4 * width**2)
    return distance + mean.square().mean()


def fit_mlp(
    key: str, states: torch.Tensor, source: Moments, target: Moments, steps: int = STEPS
) -> MlpMap:
    """Train one network by Adam; the same arguments give the same network.

    Args:
        key: Key of the map, which also seeds it.
        states: States of the running path, shape (N, d).
        source: Their moments.
        target: Moments of the layer's native inputs, with covariance.
        steps: Gradient steps.

    Returns:
        The network with the smallest loss seen, at worst the diagonal map.

    Raises:
        ArithmeticError: The states of the path are zero, NaN or infinite.
    """
    check_states(source)
    assert target.covariance is not None
    (m, sigma), (n, tau) = (_scale(moments) for moments in (source, target))
    correlation = (target.covariance / tau.double().outer(tau.double())).float()
    inputs = ((states - m) / sigma).float()[:: max(1, len(states) // STATES)]
    width = inputs.shape[1]
    generator = torch.Generator().manual_seed(int(key, 16) >> 1)
    inner = (torch.randn(width, width, generator=generator) / width**0.5).to(inputs.device)
    weights = (inner, inner.new_zeros(width), inner.new_zeros(width, width))
    with torch.enable_grad():
        for tensor in weights:
            tensor.requires_grad_()
        optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE)
        best, kept = float("inf"), tuple(tensor.detach().clone() for tensor in weights)
        for _ in range(steps + 1):
            loss = coral_loss(_corrected(inputs, weights), correlation)
            if loss.item() < best:
                best, kept = loss.item(), tuple(tensor.detach().clone() for tensor in weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return MlpMap(key, (kept[0], kept[1], kept[2]), (m, sigma), (n, tau))


def _scale(moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, fp32; the latter kept off zero like the closed forms'."""
    variance = moments.variance + SHRINKAGE * moments.variance.mean()
    return moments.mean.float(), variance.sqrt().float()

"""Blends that compete for an evaluation, and who makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hm3rl.agents.batches import CLIMB, POLICY, VARIATION
from hm3rl.agents.blend_policy import MARGIN
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.depth import depth_basis, frequencies
from hm3rl.surrogate.blend_gp import BlendGP

UNIFORM = "uniform"
"""One blend everywhere: drawn at random, or near the mean of one of the best over its depth."""

COUNT = 350
"""Blends of each kind of variation."""

NEAREST, FARTHEST = 0.02, 0.3
"""Smallest and largest steps of variations; steps around the policy's answers reach a third."""

CLIMB_STEPS, CLIMB_RATE = 40, 0.1


@dataclass
class Pile:
    """Blends and who made them, coarser ones first.

    Attributes:
        space: What blends there are.
        parts: Arrays of shape (n, 1 + L, N).
        makers: By blend.
    """

    space: BlendSpace
    parts: list[np.ndarray] = field(default_factory=list)
    makers: list[str] = field(default_factory=list)

    def add(self, blends: np.ndarray, maker: str) -> None:
        """Add blends of shape (n, 1 + L, N)."""
        self.parts.append(self.space.rounded(blends))
        self.makers += [maker] * len(blends)

    @property
    def blends(self) -> np.ndarray:
        """All of them, shape (n, 1 + L, N)."""
        return np.concatenate(self.parts)


def smooth_tchebycheff(
    values: Tensor, preferences: Tensor, utopia: Tensor, smoothness: float
) -> Tensor:
    """What is lost to the utopian point, with gradients in all objectives (Lin et al., ICML 2024).

    Args:
        values: f / z*, shape (m, K).
        preferences: Shape (m, K).
        utopia: Shape (K,).
        smoothness: Temperature; towards 0 it is the largest loss.

    Returns:
        Shape (m,), to be minimised.
    """
    lost = preferences * (utopia - values)
    smooth = smoothness * torch.logsumexp(lost / smoothness, dim=1)
    return smooth + 0.05 * lost.sum(dim=1)


def log_uniform(low: float, high: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Step sizes of all orders, shape (n, 1, 1)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size=(n, 1, 1)))


def directions(space: BlendSpace, n: int, rng: np.random.Generator) -> np.ndarray:
    """Random directions of some components over the depth, smaller the higher their frequency.

    From one component to all of them, so that a step may move the whole model alone, or its stem.

    Returns:
        Shape (n, 1 + L, N).
    """
    places, experts = space.shape
    amplitude = 1.0 / (1 + frequencies(space.depth))
    kept = rng.random((n, places, 1)) < rng.uniform(1 / places, 1.0, size=(n, 1, 1))
    components = kept * amplitude[:, None] * rng.normal(size=(n, places, experts))
    return np.einsum("rj,mjn->mrn", np.linalg.inv(depth_basis(space.depth)), components)


def uniform_blends(pile: Pile, best: np.ndarray, rng: np.random.Generator) -> None:
    """The same blend everywhere, at random and near the depth's means of the best known."""
    space, n = pile.space, COUNT // 3
    pile.add(space.uniform(rng.random((n, space.shape[1])) * space.largest), UNIFORM)
    means = best[rng.integers(len(best), size=n), 1:].mean(axis=1)
    pile.add(space.uniform(means + rng.normal(0.0, 0.08, size=means.shape)), UNIFORM)


def answers(
    pile: Pile,
    policy: Callable[[Tensor], Tensor],
    preferences: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """The policy's answers to preferences (n, K), and steps around them."""
    with torch.no_grad():
        blends = policy(torch.as_tensor(preferences)).numpy()
    steps = log_uniform(NEAREST / 2, FARTHEST / 3, len(blends), rng)
    pile.add(blends, POLICY)
    pile.add(blends + steps * rng.normal(size=blends.shape), POLICY)


def variations(pile: Pile, front: np.ndarray, best: np.ndarray, rng: np.random.Generator) -> None:
    """Crossovers of the front with the best known, and steps of either.

    A step moves a run of places, or components over the depth.

    Args:
        pile: Takes them.
        front: Non-dominated blends, shape (F, 1 + L, N).
        best: The best known under some preferences, shape (n, 1 + L, N).
        rng: Source of randomness.
    """
    places = np.arange(front.shape[1])
    start, stop = np.sort(rng.integers(0, len(places) + 1, size=(2, COUNT)), axis=0)
    run = (places >= start[:, None]) & (places < np.maximum(stop, start + 1)[:, None])
    one = front[rng.integers(len(front), size=COUNT)]
    other = best[rng.integers(len(best), size=COUNT)]
    share = rng.random((COUNT, 1, 1))
    mixed = share * one + (1 - share) * other
    swapped = np.where(run[:, :, None], other, one)
    pile.add(np.where(rng.random((COUNT, 1, 1)) < 0.5, swapped, mixed), VARIATION)
    both = np.concatenate([front, best])
    from_ = both[rng.integers(len(both), size=COUNT)]
    step = log_uniform(NEAREST, FARTHEST, COUNT, rng) * rng.normal(size=(COUNT, 1, front.shape[2]))
    pile.add(from_ + run[:, :, None] * step, VARIATION)
    from_ = both[rng.integers(len(both), size=COUNT)]
    steps = log_uniform(NEAREST, FARTHEST, COUNT, rng) * directions(pile.space, COUNT, rng)
    pile.add(from_ + steps, VARIATION)


def climbed(
    gp: BlendGP, starts: np.ndarray, largest: float, loss: Callable[[Tensor, Tensor], Tensor]
) -> np.ndarray:
    """Blends after some steps of gradient descent, all at once.

    Args:
        gp: A fitted surrogate.
        starts: Shape (n, 1 + L, N).
        largest: Coefficients lie in [0, largest].
        loss: Of posterior means and standard deviations (n, K), shape (n,).

    Returns:
        Shape (n, 1 + L, N).
    """
    share = torch.as_tensor(starts / largest).clamp(MARGIN, 1 - MARGIN)
    logits = torch.logit(share).requires_grad_(True)
    optimiser = torch.optim.Adam([logits], lr=CLIMB_RATE)
    for _ in range(CLIMB_STEPS):
        found = gp.marginal(largest * torch.sigmoid(logits))
        optimiser.zero_grad()
        loss(found.mean, found.std).sum().backward()
        optimiser.step()
    return (largest * torch.sigmoid(logits)).detach().numpy()


def ascents(
    pile: Pile,
    gp: BlendGP,
    starts: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    rng: np.random.Generator,
) -> None:
    """Ascents under the surrogate, and small steps around where they end; see `climbed`."""
    tops = climbed(gp, starts, pile.space.largest, loss)
    pile.add(tops, CLIMB)
    for size in (NEAREST, 2.5 * NEAREST):
        pile.add(tops + size * rng.normal(size=tops.shape), CLIMB)

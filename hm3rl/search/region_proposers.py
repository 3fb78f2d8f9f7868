"""Who proposes vectors inside a region: chance, or the surrogate; words stand in `region_words`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from hm3rl.objectives.indicators import non_dominated
from hm3rl.search.encoding import GroupedBlends
from hm3rl.search.ledger import KnownPoints
from hm3rl.search.regions import Region
from hm3rl.surrogate.acquisition import choose_by_hypervolume
from hm3rl.surrogate.blend_gp import BlendGP

FIT_STEPS, REFIT_STEPS = 60, 12
"""Steps of the surrogate's hyper-parameters before the first round and before each later one."""

CANDIDATES, SAMPLES = 100, 64
"""Vectors at random in a region, and as many around its points, of which the surrogate chooses;
joint posterior samples by which it does."""

NEAREST, FARTHEST = 0.02, 0.3
"""Standard deviations of the steps around points of a region, log-uniform."""


class Known:
    """What proposers may look at.

    Attributes:
        encoding: What vectors mean.
        vectors: Shape (N, D).
        scores: f / z* there, shape (N, K).
        surrogate: Fitted to these.
    """

    def __init__(self, encoding: GroupedBlends, points: KnownPoints) -> None:
        self.encoding = encoding
        self.vectors, self.scores = points
        depth, experts = encoding.space.depth, len(encoding.space.experts)
        self.surrogate = BlendGP(self.scores.shape[1], depth, experts)
        self._steps = FIT_STEPS

    def add(self, vectors: np.ndarray, scores: np.ndarray) -> None:
        """Learn that vectors (n, D) have scores (n, K)."""
        self.vectors = np.concatenate([self.vectors, vectors])
        self.scores = np.concatenate([self.scores, scores])

    def fit(self) -> None:
        """Fit the surrogate to all there is."""
        self.surrogate.fit(self.encoding.blends(self.vectors), self.scores, self._steps)
        self._steps = REFIT_STEPS

    def expected(self, vectors: np.ndarray) -> np.ndarray:
        """What the surrogate expects at vectors (n, D), shape (n, K)."""
        with torch.no_grad():
            blends = torch.as_tensor(self.encoding.blends(vectors))
            return self.surrogate.marginal(blends).mean.numpy()


class Proposer(Protocol):
    """Proposes vectors inside a region."""

    def propose(
        self, known: Known, region: Region, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """So many vectors between the region's corners, shape (count, D)."""
        ...


class RandomProposer:
    """Uniform in the region."""

    def propose(
        self, known: Known, region: Region, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """See `Proposer.propose`."""
        return rng.uniform(region.lower, region.upper, size=(count, len(region.lower)))


class SurrogateProposer:
    """The batch of the largest joint expected hypervolume improvement in the region."""

    def propose(
        self, known: Known, region: Region, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """See `Proposer.propose`."""
        centres = known.vectors[rng.choice(region.members, size=CANDIDATES)]
        steps = np.exp(rng.uniform(np.log(NEAREST), np.log(FARTHEST), size=(CANDIDATES, 1)))
        near = centres + steps * rng.normal(size=centres.shape)
        pool = np.concatenate(
            [
                rng.uniform(region.lower, region.upper, size=centres.shape),
                np.clip(near, region.lower, region.upper),
            ]
        )
        blends = torch.as_tensor(known.encoding.blends(pool))
        samples = known.surrogate.samples(blends, SAMPLES, rng)
        front = known.scores[non_dominated(known.scores)]
        return pool[choose_by_hypervolume(samples, front, count)]

"""What general-purpose optimisers vary: vectors of numbers, and the candidates they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.candidate import Candidate
from hm3rl.search.parameter_level import DECIMALS
from hm3rl.settings import ParameterSettings


class Encoding(Protocol):
    """Vectors of shape (D,) between two bounds, each of which stands for a candidate.

    Several vectors may stand for the same candidate. An optimiser gets no candidate but by
    `decode`, so whatever it proposes between the bounds must decode to a legal one.

    Attributes:
        lower: Smallest value of each entry, shape (D,).
        upper: Largest value of each entry, shape (D,).
    """

    lower: np.ndarray
    upper: np.ndarray

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors at random, shape (n, D)."""
        ...

    def decode(self, vector: np.ndarray) -> Candidate:
        """The candidate a vector of shape (D,) stands for."""
        ...


class RecipeEncoding:
    """Merge recipes of the parameter level as vectors of [0, 1]^(K+3).

    Entries: the operator (equal parts of [0, 1]), K weights, the scale and the density (linear in
    their ranges). Weights are w_k = e_k / sum_j e_j with e_k = -log(1 - v_k), so that uniform
    vectors are weights ~ Dirichlet(1, ..., 1): the distribution that every searcher of the
    parameter level starts from.

    Args:
        experts: Names of the K experts.
        settings: Operators and ranges.
        depth: Layers of the merged model.
    """

    def __init__(self, experts: Sequence[str], settings: ParameterSettings, depth: int) -> None:
        self.experts = tuple(experts)
        self.settings = settings
        self.depth = depth
        self.lower = np.zeros(len(self.experts) + 3)
        self.upper = np.ones(len(self.experts) + 3)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, K + 3)."""
        return rng.random((n, len(self.lower)))

    def decode(self, vector: np.ndarray) -> Candidate:
        """The whole merged model a vector of shape (K + 3,) stands for."""
        return Candidate.whole(self.recipe(vector), self.depth)

    def recipe(self, vector: np.ndarray) -> MergeRecipe:
        """The recipe a vector of shape (K + 3,) stands for, rounded as all recipes are."""
        s = self.settings
        operator = s.operators[min(int(vector[0] * len(s.operators)), len(s.operators) - 1)]
        shares = -np.log1p(-np.clip(vector[1:-2], 0.0, 1.0 - 1e-9))
        # All entries at zero weigh nobody; the limit along the diagonal weighs all alike.
        total = shares.sum()
        weights = shares / total if total > 0 else np.full(len(shares), 1 / len(shares))
        return MergeRecipe(
            operator=operator,
            weights=tuple(
                (name, round(float(w), DECIMALS))
                for name, w in zip(self.experts, weights, strict=True)
            ),
            scale=round(s.scale_min + float(vector[-2]) * (s.scale_max - s.scale_min), DECIMALS),
            density=round(
                s.density_min + float(vector[-1]) * (s.density_max - s.density_min), DECIMALS
            ),
        )


LOWEST_DENSITY = 0.01


class LayerGroupEncoding:
    """DARE-TIES merges with a weight and a density for each expert and group of layers.

    Vectors lie in [0, 1]^(2 G K): for each group and expert its weight, then its density.

    Args:
        experts: Names of the K experts.
        depth: Layers of the merged model.
        groups: G, at most `depth` are made.
    """

    def __init__(self, experts: Sequence[str], depth: int, groups: int) -> None:
        self.experts = tuple(experts)
        self.depth = depth
        parts = np.array_split(np.arange(depth), min(groups, depth))
        self.group_of = np.concatenate([np.full(len(p), i) for i, p in enumerate(parts)])
        self.shape = (len(parts), len(self.experts), 2)
        self.lower = np.zeros(int(np.prod(self.shape)))
        self.upper = np.ones_like(self.lower)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, 2 G K)."""
        return rng.random((n, len(self.lower)))

    def decode(self, vector: np.ndarray) -> Candidate:
        """The whole merged model a vector of shape (2 G K,) stands for."""
        return Candidate.whole(self.recipe(vector), self.depth)

    def recipe(self, vector: np.ndarray) -> MergeRecipe:
        """The recipe a vector of shape (2 G K,) stands for, rounded as all recipes are."""
        by_group = np.round(np.clip(vector, 0.0, 1.0), DECIMALS).reshape(self.shape)
        weights, densities = by_group[..., 0], np.maximum(by_group[..., 1], LOWEST_DENSITY)
        return MergeRecipe.of(
            "dare_ties",
            self._by_layer(weights),
            densities=self._by_layer(densities),
            normalise=False,
        )

    def _by_layer(self, values: np.ndarray) -> dict[str, list[float]]:
        """Values of shape (G, K) as one anchor for each layer."""
        return {
            name: [float(value) for value in values[self.group_of, column]]
            for column, name in enumerate(self.experts)
        }

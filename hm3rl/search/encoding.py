"""What general-purpose optimisers vary: vectors of numbers, and the candidates they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hm3rl.config.searchers import ParameterSettings
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.traits import traits_of
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.search.parameter_level import DECIMALS


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


class MergeEncoding(Encoding, Protocol):
    """Vectors that stand for merges of all experts."""

    def source(self, expert: str | None) -> np.ndarray | None:
        """The vector whose merge is an expert as it is, or the base (None).

        Returns:
            Shape (D,); None if no vector is.
        """
        ...


class RecipeEncoding:
    """Merge recipes of the parameter level as vectors of the unit box.

    Entries, in this order: the operator (equal parts of [0, 1]) if there are several, K weights,
    the scale and the density (linear in their ranges) if an operator listens to them. Free weights
    are the entries themselves, and nothing scales them. On the simplex they are
    w_k = e_k / sum_j e_j with e_k = -log(1 - v_k), so that uniform vectors are weights ~
    Dirichlet(1, ..., 1). Either way uniform vectors have the distribution that every searcher of
    the parameter level starts from.

    Args:
        experts: Names of the K experts.
        settings: Operators, ranges, and which weights.
        depth: Layers of the merged model.
    """

    def __init__(self, experts: Sequence[str], settings: ParameterSettings, depth: int) -> None:
        self.experts = tuple(experts)
        self.settings = settings
        self.depth = depth
        self.free = settings.weights == "free"
        traits = [traits_of(operator) for operator in settings.operators]
        self._first = int(len(traits) > 1)
        self._scaled = not self.free and any(trait.scale for trait in traits)
        self._dense = any(trait.density for trait in traits)
        size = self._first + len(self.experts) + int(self._scaled) + int(self._dense)
        self.lower = np.zeros(size)
        self.upper = np.ones(size)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, D)."""
        return rng.random((n, len(self.lower)))

    def decode(self, vector: np.ndarray) -> Candidate:
        """The whole merged model a vector of shape (D,) stands for."""
        return Candidate.whole(self.recipe(vector), self.depth)

    def recipe(self, vector: np.ndarray) -> MergeRecipe:
        """The recipe a vector of shape (D,) stands for, rounded as all recipes are."""
        s = self.settings
        inside = np.clip(vector, 0.0, 1.0)
        weights = inside[self._first : self._first + len(self.experts)]
        rest = [float(value) for value in inside[self._first + len(self.experts) :]]
        scale = s.scale_min + rest.pop(0) * (s.scale_max - s.scale_min) if self._scaled else 1.0
        density = s.density_min + rest.pop(0) * (s.density_max - s.density_min) if rest else 1.0
        return MergeRecipe(
            operator=s.operators[self._operator(inside)],
            weights=tuple(
                (name, round(float(w), DECIMALS))
                for name, w in zip(
                    self.experts, weights if self.free else _on_simplex(weights), strict=True
                )
            ),
            scale=round(scale, DECIMALS),
            # Weights that are free say how much of each task vector there is; nothing divides them.
            normalise=False if self.free else None,
            density=round(density, DECIMALS),
        )

    def source(self, expert: str | None) -> np.ndarray | None:
        """See `MergeEncoding`: a task vector taken once and whole, or, with free weights, none."""
        s = self.settings
        low, high = s.scale_min, s.scale_max
        if (expert is None and not self.free) or (self._scaled and not low <= 1.0 <= high):
            return None
        for place, operator in enumerate(s.operators):
            traits = traits_of(operator)
            if traits.scale and (s.density_max == 1.0 or not traits.density):
                first = [(place + 0.5) / len(s.operators)] if self._first else []
                scale = [(1.0 - low) / (high - low) if high > low else 0.0] if self._scaled else []
                weights = [float(name == expert) for name in self.experts]
                return np.array([*first, *weights, *scale, *([1.0] if self._dense else [])])
        return None

    def features(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors with the operator, which has no order, as one column for each: shape (n, F)."""
        if not self._first:
            return vectors
        kinds = np.eye(len(self.settings.operators))
        chosen = np.array([kinds[self._operator(vector)] for vector in vectors])
        return np.concatenate([chosen, vectors[:, 1:]], axis=1)

    def _operator(self, vector: np.ndarray) -> int:
        count = len(self.settings.operators)
        return min(int(vector[0] * count), count - 1) if self._first else 0


def _on_simplex(entries: np.ndarray) -> np.ndarray:
    """Entries of [0, 1] as weights that sum to 1; all at zero weigh alike, the diagonal's limit."""
    shares = -np.log1p(-np.minimum(entries, 1.0 - 1e-9))
    total = shares.sum()
    return shares / total if total > 0 else np.full(len(shares), 1 / len(shares))


class GroupedBlends:
    """Models of blended layers as vectors: the stem's coefficients, then those of each group.

    Args:
        space: The blends of N experts in L layers.
        groups: G groups of neighbouring layers, at most L; 0: one blend everywhere, stem included.
    """

    def __init__(self, space: BlendSpace, groups: int) -> None:
        self.space = space
        self.groups = min(groups, space.depth)
        parts = np.array_split(np.arange(space.depth), max(self.groups, 1))
        layers = [i for i, part in enumerate(parts) for _ in part]
        # Which of a vector's blends stands at each place, the stem's first.
        self._places = np.array([0, *(1 + np.array(layers) if self.groups else layers)])
        self.shape = (1 + self.groups, len(space.experts))
        self.lower = np.zeros(self.shape[0] * self.shape[1])
        self.upper = np.full_like(self.lower, space.largest)

    @property
    def names(self) -> tuple[str, ...]:
        """What each entry says, such as `stem.math` or `layers 0-3.math`; shape (D,)."""
        if not self.groups:
            return self.space.experts
        starts = [
            np.flatnonzero(self._places == 1 + group)[[0, -1]] for group in range(self.groups)
        ]
        parts = ["stem", *(f"layers {first - 1}-{last - 1}" for first, last in starts)]
        return tuple(f"{part}.{expert}" for part in parts for expert in self.space.experts)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, D)."""
        return self.rounded(rng.uniform(self.lower, self.upper, size=(n, len(self.lower))))

    def rounded(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of any shape that ends in (D,) as their blends are named and merged."""
        return self.space.rounded(vectors)

    def blends(self, vectors: np.ndarray) -> np.ndarray:
        """Blends of vectors (n, D), shape (n, 1 + L, N)."""
        return vectors.reshape(len(vectors), *self.shape)[:, self._places]

    def decode(self, vector: np.ndarray) -> Candidate:
        """The model a vector of shape (D,) stands for."""
        return Candidate(self.space.decode(self.blends(vector[None])[0]))

    def source(self, expert: str | None) -> np.ndarray | None:
        """See `MergeEncoding`: coefficient 1 for the expert everywhere, none for the base."""
        if expert is not None and expert not in self.space.experts:
            return None
        vector = np.tile([float(name == expert) for name in self.space.experts], self.shape[0])
        return None if (vector > self.upper).any() else vector


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

    def source(self, expert: str | None) -> np.ndarray:
        """See `MergeEncoding`: weight 1 for the expert alone, and nothing dropped."""
        by_group = np.ones(self.shape)
        by_group[..., 0] = [float(name == expert) for name in self.experts]
        return by_group.ravel()

    def _by_layer(self, values: np.ndarray) -> dict[str, list[float]]:
        """Values of shape (G, K) as one anchor for each layer."""
        return {
            name: [float(value) for value in values[self.group_of, column]]
            for column, name in enumerate(self.experts)
        }

"""Blends by layer as vectors: what annealing and Bayesian optimisation of layers vary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.search.parameter_level import DECIMALS


class BlendEncoding:
    """Task arithmetic with a coefficient for each expert, in the stem and in each group of layers.

    Vectors lie in [0, 1]^((1 + G) K): the stem's coefficients (embedding, final norm, head), then
    those of each group, first layers first. Stem and layers are two members of a path, unless they
    are blended alike. A blend of one expert alone, or of none, is that expert or the base, so a
    vector that says the same everywhere stands for what the parameter level has, or a source.

    Args:
        experts: Names of the K experts.
        base: Name of the base.
        depth: Layers of the merged model.
        groups: G, at most `depth` are made.
    """

    def __init__(self, experts: Sequence[str], base: str, depth: int, groups: int) -> None:
        self.experts = tuple(experts)
        self.base = base
        self.depth = depth
        parts = np.array_split(np.arange(depth), min(groups, depth))
        self.group_of = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])
        self.shape = (1 + len(parts), len(self.experts))
        self.lower = np.zeros(int(np.prod(self.shape)))
        self.upper = np.ones_like(self.lower)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, (1 + G) K)."""
        return rng.random((n, len(self.lower)))

    def encode(self, coefficients: Sequence[float] | np.ndarray) -> np.ndarray:
        """The vector that says the same K coefficients everywhere."""
        return np.tile(np.clip(coefficients, 0.0, 1.0), self.shape[0])

    def decode(self, vector: np.ndarray) -> Candidate:
        """The whole model a vector of shape ((1 + G) K,) stands for."""
        stem, *groups = np.round(np.clip(vector, 0.0, 1.0), DECIMALS).reshape(self.shape)
        whole, body = self._member(stem[None]), self._member(np.array(groups))
        if whole == body:
            return Candidate.whole(body, self.depth)
        names = [one if isinstance(one, str) else one.name for one in (whole, body)]
        path = LayerPath(LayerPath.whole(names[1], self.depth).refs, names[0])
        return Candidate.of(path, [one for one in (whole, body) if isinstance(one, MergeRecipe)])

    def _member(self, groups: np.ndarray) -> str | MergeRecipe:
        """The merge with coefficients of shape (G, K), or the source that they are."""
        first = groups[0]
        if (groups == first).all():
            if not first.any():
                return self.base
            if first.sum() == first.max() == 1.0:
                return self.experts[int(first.argmax())]
            groups = groups[:1]
        rows = groups[self.group_of] if len(groups) > 1 else groups
        weights = {
            name: [float(value) for value in rows[:, column]]
            for column, name in enumerate(self.experts)
        }
        return MergeRecipe.of("task_arithmetic", weights)


def blends_of(problem: MergeProblem, groups: int | None) -> BlendEncoding:
    """The encoding of a problem's experts.

    Args:
        problem: Prepared problem.
        groups: Groups of layers; None: every layer is one.
    """
    pool = problem.pool
    return BlendEncoding(
        pool.expert_names, pool.base_name, pool.num_layers, groups or pool.num_layers
    )


def known_blends(problem: MergeProblem, encoding: BlendEncoding) -> tuple[np.ndarray, np.ndarray]:
    """What is known before a search over blends begins: the sources, and the parameter level.

    Args:
        problem: After the parameter level.
        encoding: Of its experts.

    Returns:
        Vectors, shape (N, D), and their scores f / z*, shape (N, K). Merges that are no plain
        task arithmetic are left out.
    """
    vectors, scores = [], []
    experts = list(encoding.experts)
    for key in problem.archive.keys:
        candidate = problem.candidate(key)
        if candidate.recipes:
            (recipe, *more) = candidate.recipes
            if more or recipe.operator != "task_arithmetic" or recipe.varies or recipe.normalise:
                continue
            weights = dict(recipe.weights)
            blend = [recipe.scale * weights.get(name, 0.0) for name in experts]
        else:
            blend = [float(name == candidate.path.stem) for name in experts]
        vectors.append(encoding.encode(blend))
        scores.append(problem.archive.vector(key) / problem.z_star)
    return np.array(vectors), np.array(scores)

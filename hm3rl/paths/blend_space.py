"""What blended paths there are: a blend for the stem and for each layer, in the model's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hm3rl.merging.blend import DECIMALS, blend_name, blend_of, is_blend
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.names import BASE
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath, LayerRef


@dataclass(frozen=True)
class BlendSpace:
    """Models of the base's depth whose stem and layers are blends of the experts.

    A blend is a row of coefficients; a model is the stem's row, then one for each layer.

    Attributes:
        experts: Names of the N experts that can be merged.
        depth: L, layers of the base.
        largest: Coefficients lie in [0, largest].
    """

    experts: tuple[str, ...]
    depth: int
    largest: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(1 + L, N)."""
        return 1 + self.depth, len(self.experts)

    def rounded(self, blends: np.ndarray) -> np.ndarray:
        """Blends of any shape that ends in (N,), as they are named and merged."""
        return np.round(np.clip(blends, 0.0, self.largest), DECIMALS) + 0.0

    def uniform(self, coefficients: np.ndarray) -> np.ndarray:
        """The same blend everywhere: of coefficients (n, N), shape (n, 1 + L, N)."""
        return np.repeat(np.asarray(coefficients, float)[:, None, :], 1 + self.depth, axis=1)

    def decode(self, blends: np.ndarray, layers: Sequence[int] | None = None) -> LayerPath:
        """The path of blends, shape (1 + T, N), the stem's first.

        Args:
            blends: Coefficients.
            layers: Index of the layer at each of the T depths; default: the model's order, T = L.
        """
        names = [
            blend_name(dict(zip(self.experts, row.tolist(), strict=True)))
            for row in self.rounded(blends)
        ]
        order = range(self.depth) if layers is None else layers
        refs = tuple(LayerRef(*pair) for pair in zip(names[1:], order, strict=True))
        return LayerPath(refs, names[0])

    def offers(self, path: LayerPath) -> bool:
        """Whether a path through sources and blends is in this space."""
        members = all(is_blend(name) or name in (BASE, *self.experts) for name in path.members)
        return members and self.encode(Candidate(path)) is not None

    def encode(self, candidate: Candidate) -> np.ndarray | None:
        """The blends of a candidate, shape (1 + L, N); None if it is not made of blends.

        Sources are: an expert is one-hot, the base 0. So is task arithmetic without a profile.
        """
        path = candidate.path
        if [layer for _, layer in path.refs] != list(range(self.depth)):
            return None
        recipes = {recipe.name: recipe for recipe in candidate.recipes}
        rows = [self._row(name, recipes) for name in (path.stem, *(name for name, _ in path.refs))]
        return None if any(row is None for row in rows) else np.array(rows)

    def _row(self, name: str, recipes: Mapping[str, MergeRecipe]) -> list[float] | None:
        if name == BASE:
            return [0.0] * len(self.experts)
        if name in recipes:
            recipe = recipes[name]
            if recipe.operator != "task_arithmetic" or recipe.varies or recipe.normalise:
                return None
            weights = {expert: recipe.scale * weight for expert, weight in recipe.weights}
        else:
            weights = blend_of(name) if is_blend(name) else {name: 1.0}
        if not weights.keys() <= set(self.experts):
            return None
        return [weights.get(expert, 0.0) for expert in self.experts]

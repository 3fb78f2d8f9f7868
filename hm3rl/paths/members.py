"""`MemberSet`: the sources and the merged members of a search, under stable names."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.merging.merge import check_experts, merged_model
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.pool import ModelPool

DEFAULT_CACHE_BYTES = 4 * 2**30
"""Memory for merged weights; the least recently used are dropped and rebuilt when asked for."""


class MemberSet:
    """Everything whose layers a path may use.

    Merged members are registered by recipe and built when first asked for. A model handed out
    stays valid for as long as somebody holds it, also after the cache has dropped it.

    Args:
        pool: The sources.
        include_base: Whether the base is offered to searches (it can always be referred to).
        cache_bytes: Memory for merged weights; at least one merged member is always kept.
    """

    def __init__(
        self,
        pool: ModelPool,
        include_base: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.pool = pool
        self.include_base = include_base
        self.cache_bytes = cache_bytes
        self.task_vectors = TaskVectors(pool)
        self.derived: dict[tuple[Any, ...], Any] = {}
        """What other modules compute once from this set and keep for as long as it lives."""
        self._recipes: dict[str, MergeRecipe] = {}
        self._models: OrderedDict[str, PreTrainedModel] = OrderedDict()
        self._sizes: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Members offered: experts, the base if asked for, merged members in order added."""
        base = (self.pool.base_name,) if self.include_base else ()
        return (*self.pool.expert_names, *base, *self._recipes)

    @property
    def recipes(self) -> tuple[MergeRecipe, ...]:
        """Recipes of the merged members, in order added."""
        return tuple(self._recipes.values())

    def add(self, recipe: MergeRecipe) -> str:
        """Register a merged member; adding it again changes nothing.

        Args:
            recipe: How it is merged.

        Returns:
            Its name.

        Raises:
            InputError: The recipe weighs an unknown expert, or its name belongs to another recipe.
        """
        known = self._recipes.get(recipe.name)
        if known is None:
            check_experts(self.task_vectors, recipe)
            self._recipes[recipe.name] = recipe
        elif known != recipe:
            raise InputError(
                f"two different recipes share the name {recipe.name}", "change one weight slightly"
            )
        return recipe.name

    def check(self, name: str) -> None:
        """Require that a member exists.

        Raises:
            InputError: It does not; names those that do.
        """
        if name not in self.pool.names and name not in self._recipes:
            raise InputError(
                f"there is no member {name!r}",
                f"members: {', '.join((*self.pool.names, *self._recipes))}",
            )

    def is_merged(self, name: str) -> bool:
        """Whether a member is a merge rather than a source."""
        self.check(name)
        return name in self._recipes

    def recipe(self, name: str) -> MergeRecipe | None:
        """Return the recipe of a merged member, None for a source."""
        self.check(name)
        return self._recipes.get(name)

    def model(self, name: str) -> PreTrainedModel:
        """Return a member's model, merging it now if need be.

        Returns:
            A shared model in evaluation mode; never change it.
        """
        self.check(name)
        if name not in self._recipes:
            return self.pool.model(name)
        if name in self._models:
            self._models.move_to_end(name)
            return self._models[name]
        model = merged_model(self.task_vectors, self._recipes[name])
        self._models[name] = model
        self._sizes[name] = sum(parameter.nbytes for parameter in model.parameters())
        self._shrink()
        return model

    def num_layers(self, name: str) -> int:
        """Return a member's number of decoder layers."""
        return int(self._config(name).num_hidden_layers)

    def hidden_size(self, name: str) -> int:
        """Return the width of a member's residual stream."""
        return int(self._config(name).hidden_size)

    def can_follow(self, before: str, after: str) -> bool:
        """Whether layers of `after` accept what layers of `before` put out (the paper's C4)."""
        return self.hidden_size(before) == self.hidden_size(after)

    @property
    def recipe_dim(self) -> int:
        """Length R of `recipe_features`."""
        return len(self.pool.expert_names) + 3

    def recipe_features(self, name: str) -> np.ndarray:
        """Describe a member by its recipe, never by its position in the set.

        A source expert is the merge that takes all of itself: its one-hot weights, scale 1,
        density 1. The base has zero weights.

        Args:
            name: A member.

        Returns:
            K weights, then scale, mean density and 1 for a merge or 0 for a source;
            float32, shape (K + 3,).
        """
        self.check(name)
        experts = self.pool.expert_names
        recipe = self._recipes.get(name)
        if recipe is None:
            return np.array([*(float(e == name) for e in experts), 1.0, 1.0, 0.0], np.float32)
        weights = dict(recipe.weights)
        density = float(np.mean([recipe.density_of(e) for e in recipe.experts] or [1.0]))
        row = [*(weights.get(e, 0.0) for e in experts), recipe.scale, density, 1.0]
        return np.array(row, np.float32)

    def _config(self, name: str) -> PretrainedConfig:
        self.check(name)
        source = self.pool.base_name if name in self._recipes else name
        return self.pool.model(source).config

    def _shrink(self) -> None:
        while len(self._models) > 1 and sum(self._sizes.values()) > self.cache_bytes:
            dropped, _ = self._models.popitem(last=False)
            del self._sizes[dropped]

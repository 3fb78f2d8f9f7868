"""`MemberSet`: the sources and the merged members of a search, under stable names."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.merging.merge import check_experts, merged_model
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.hashing import short_hash
from hm3rl.models.pool import ModelPool
from hm3rl.paths.aligner import Aligner
from hm3rl.paths.alignment_kind import NO_ALIGNMENT, split_alignment
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import family_of
from hm3rl.paths.statistics import Calibration

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
        calibration: Batch that alignments between stitched layers are fitted on.
    """

    def __init__(
        self,
        pool: ModelPool,
        include_base: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        calibration: Calibration | None = None,
    ) -> None:
        self.pool = pool
        self.include_base = include_base
        self.cache_bytes = cache_bytes
        self._aligner = None if calibration is None else Aligner(calibration)
        self.derived: dict[tuple[Any, ...], Any] = {}
        """What other modules compute once from this set and keep for as long as it lives."""
        self._recipes: dict[str, MergeRecipe] = {}
        self._models: OrderedDict[str, PreTrainedModel] = OrderedDict()

    @cached_property
    def task_vectors(self) -> TaskVectors:
        """Task vectors of the experts that can be merged."""
        return TaskVectors(self.pool.merging())

    @property
    def names(self) -> tuple[str, ...]:
        """Members offered: experts, the base if asked for, merged members in order added."""
        base = (self.pool.base_name,) if self.include_base else ()
        return (*self.pool.expert_names, *base, *self._recipes)

    @property
    def recipes(self) -> tuple[MergeRecipe, ...]:
        """Recipes of the merged members, in order added."""
        return tuple(self._recipes.values())

    def admit(self, candidate: Candidate) -> None:
        """Register all merged members that a candidate refers to; see `add`."""
        for recipe in candidate.recipes:
            self.add(recipe)

    def add(self, recipe: MergeRecipe) -> str:
        """Register a merged member; adding it again changes nothing.

        Args:
            recipe: How it is merged.

        Returns:
            Its name.

        Raises:
            InputError: The recipe weighs an expert that is unknown or cannot be merged, or its
                name belongs to another recipe.
        """
        known = self._recipes.get(recipe.name)
        if known is None:
            self.pool.check_mergeable(e for e in recipe.experts if e in self.pool.expert_names)
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
        self._shrink()
        return model

    def config(self, name: str) -> PretrainedConfig:
        """Return a member's configuration; a merge has the base's."""
        self.check(name)
        source = self.pool.base_name if name in self._recipes else name
        return self.pool.model(source).config

    def content(self, name: str) -> str:
        """Return a member's content hash: it changes with its weights and with nothing else."""
        self.check(name)
        hashes, recipe = self.pool.hashes, self._recipes.get(name)
        if recipe is None:
            return hashes[name]
        used = (self.pool.base_name, *recipe.experts)
        return short_hash([recipe.to_dict(), {source: hashes[source] for source in used}])

    @property
    def calibration(self) -> Calibration | None:
        """Batch that alignments are fitted on."""
        return None if self._aligner is None else self._aligner.calibration

    def alignment(self, kind: str) -> str:
        """Name a kind of alignment, fitted on this set's calibration batch.

        Args:
            kind: One of `ALIGNMENTS`.

        Returns:
            The text for `Candidate.alignment`.

        Raises:
            InputError: Unknown kind, or there is no calibration batch.
        """
        if kind == NO_ALIGNMENT:
            return kind
        text = f"{kind}@{NO_ALIGNMENT if self.calibration is None else self.calibration.key}"
        split_alignment(text)
        self.aligner(text)
        return text

    def aligner(self, alignment: str) -> Aligner:
        """Return what fits alignments.

        Raises:
            InputError: There is no calibration batch.
        """
        if self._aligner is None:
            raise InputError(
                f"alignment {alignment.partition('@')[0]} needs a calibration batch",
                "set paths.alignment, or give MemberSet a Calibration",
            )
        return self._aligner

    def num_layers(self, name: str) -> int:
        """Return a member's number of decoder layers."""
        return int(self.config(name).num_hidden_layers)

    def hidden_size(self, name: str) -> int:
        """Return the width of a member's residual stream."""
        return int(self.config(name).hidden_size)

    def can_follow(self, before: str, after: str) -> bool:
        """Whether layers of `after` accept what layers of `before` put out (the paper's C4).

        Layers must also be called alike: GPT-2 and GPT-NeoX follow only their like.
        """
        one, other = self.config(before), self.config(after)
        return one is other or (
            one.hidden_size == other.hidden_size
            and family_of(one).calling == family_of(other).calling
        )

    def alike(self, one: str, other: str) -> bool:
        """Whether layers of two members need the same of their host."""
        return self.config(one) is self.config(other) or (
            self._is_usual(one) and self._is_usual(other)
        )

    def describe(self, name: str) -> str:
        """Say of what architecture a member is, for messages."""
        return f"{self.config(name).model_type} of hidden size {self.hidden_size(name)}"

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

    @cached_property
    def _merged_bytes(self) -> int:
        """Memory of one merged member's weights: as many as the base's."""
        return sum(p.nbytes for p in self.pool.model(self.pool.base_name).parameters())

    @cached_property
    def _usual(self) -> frozenset[str]:
        return frozenset((self.pool.base_name, *self.pool.mergeable))

    def _is_usual(self, name: str) -> bool:
        """Whether a member is of the base's architecture."""
        return name in self._usual or name in self._recipes

    def _shrink(self) -> None:
        while len(self._models) > 1 and len(self._models) * self._merged_bytes > self.cache_bytes:
            self._models.popitem(last=False)

"""`MemberSet`: the sources and the merged members of a search, under stable names."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.merging.blend import blend_of, is_blend
from hm3rl.merging.merge import check_experts, check_recipe, merged_module
from hm3rl.merging.recipe import MergeRecipe, blend_recipe, names_merge
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.hashing import short_hash
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import shallow_copy
from hm3rl.paths.aligner import Aligner
from hm3rl.paths.alignment_kind import NO_ALIGNMENT, split_alignment
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import decoder, decoder_layers, family_of
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.statistics import Calibration

DEFAULT_CACHE_BYTES = 4 * 2**30
"""Memory for merged weights; the least recently used are dropped and rebuilt when asked for."""


class MemberSet:
    """Everything whose layers a path may use.

    Merged members are registered by recipe, blends are named by what they are. Both are merged
    layer by layer, when a layer is first asked for. What was handed out stays valid for as long as
    somebody holds it, also after the cache has dropped it.

    Args:
        pool: The sources.
        include_base: Whether the base is offered to searches (it can always be referred to).
        cache_bytes: Memory for merged weights; of one member they are always kept.
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
        self._blends: dict[str, MergeRecipe] = {}
        self._parts: OrderedDict[tuple[str, int | None], nn.Module] = OrderedDict()
        self._part_bytes = 0

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
        if is_blend(name):
            self._blend(name)
        elif name not in self.pool.names and name not in self._recipes:
            raise InputError(
                f"there is no member {name!r}",
                f"members: {', '.join((*self.pool.names, *self._recipes))}",
            )

    def is_merged(self, name: str) -> bool:
        """Whether a member is a merge rather than a source."""
        return self.recipe(name) is not None

    def recipe(self, name: str) -> MergeRecipe | None:
        """Return the recipe of a merged member or a blend, None for a source."""
        self.check(name)
        return self._blend(name) if is_blend(name) else self._recipes.get(name)

    def model(self, name: str) -> PreTrainedModel:
        """Return a member's model, merging it now if need be.

        Returns:
            A model in evaluation mode over shared weights; never change it.
        """
        if not self.is_merged(name):
            return self.pool.model(name)
        stem = self.stem(name)
        family = family_of(stem.config)
        model, inner = shallow_copy(stem), shallow_copy(decoder(stem))
        layers = shallow_copy(decoder_layers(stem))
        layers._modules.update(
            (str(layer), self.layer(name, layer)) for layer in range(self.num_layers(name))
        )
        inner._modules[family.layers] = layers
        model._modules[family.inner] = inner
        return model

    def stem(self, name: str) -> PreTrainedModel:
        """Return a model whose embedding, final norm and head are a member's.

        Returns:
            As `model`, but of a merged member the layers are the base's.
        """
        recipe = self.recipe(name)
        if recipe is None:
            return self.pool.model(name)
        base = self.pool.model(self.pool.base_name)
        found = self._part(name, recipe, base, None)
        assert isinstance(found, PreTrainedModel)
        return found

    def layer(self, name: str, index: int) -> nn.Module:
        """Return a decoder layer of a member, merging it now if need be; never change it."""
        recipe = self.recipe(name)
        layers = decoder_layers(self.pool.model(name if recipe is None else self.pool.base_name))
        if recipe is None:
            return layers[index]
        return self._part(name, recipe, layers[index], index)

    def merge_part(self, name: str, layer: int | None) -> None:
        """Merge a layer of a member, or its stem, now."""
        if layer is None:
            self.stem(name)
        else:
            self.layer(name, layer)

    def merged_parts(self, path: LayerPath) -> dict[tuple[str, int | None], int]:
        """What has to be merged for a path: bytes by member and layer (None: the stem)."""
        wanted: list[tuple[str, int | None]] = [(path.stem, None), *path.refs]
        return {part: self._bytes_of.get(part[1], 0) for part in wanted if names_merge(part[0])}

    def _part(
        self, name: str, recipe: MergeRecipe, module: nn.Module, layer: int | None
    ) -> nn.Module:
        """A part of a merged member, from the cache if it is there."""
        key = (name, layer)
        if key in self._parts:
            self._parts.move_to_end(key)
            return self._parts[key]
        check_recipe(self.task_vectors, recipe)
        part = merged_module(self.task_vectors, recipe, module, layer)
        self._parts[key] = part
        self._part_bytes += self._bytes_of[layer]
        while self._part_bytes > max(self.cache_bytes, self._merged_bytes):
            (_, dropped), _ = self._parts.popitem(last=False)
            self._part_bytes -= self._bytes_of[dropped]
        return part

    def _blend(self, name: str) -> MergeRecipe:
        """The recipe of a blend, whose experts are checked when it is first met."""
        if name not in self._blends:
            self.pool.check_mergeable(e for e in blend_of(name) if e in self.pool.expert_names)
            recipe = blend_recipe(name)
            check_experts(self.task_vectors, recipe)
            self._blends[name] = recipe
        return self._blends[name]

    def config(self, name: str) -> PretrainedConfig:
        """Return a member's configuration; a merge has the base's."""
        return self.pool.model(self.pool.base_name if self.is_merged(name) else name).config

    def content(self, name: str) -> str:
        """Return a member's content hash: it changes with its weights and with nothing else."""
        hashes, recipe = self.pool.hashes, self.recipe(name)
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
        experts = self.pool.expert_names
        recipe = self.recipe(name)
        if recipe is None:
            return np.array([*(float(e == name) for e in experts), 1.0, 1.0, 0.0], np.float32)
        weights = dict(recipe.weights)
        density = float(np.mean([recipe.density_of(e) for e in recipe.experts] or [1.0]))
        row = [*(weights.get(e, 0.0) for e in experts), recipe.scale, density, 1.0]
        return np.array(row, np.float32)

    @cached_property
    def _bytes_of(self) -> dict[int | None, int]:
        """Memory of a merged member's parts, by layer; None: what lies outside the layers."""
        found: dict[int | None, int] = dict.fromkeys([None, *range(self.pool.num_layers)], 0)
        for name in self.task_vectors.names:
            found[self.task_vectors.place(name).layer] += self.task_vectors.base(name).nbytes
        return found

    @property
    def _merged_bytes(self) -> int:
        """Memory of one merged member's weights: as many as the base's."""
        return sum(self._bytes_of.values())

    @cached_property
    def _usual(self) -> frozenset[str]:
        return frozenset((self.pool.base_name, *self.pool.mergeable))

    def _is_usual(self, name: str) -> bool:
        """Whether a member is of the base's architecture."""
        return name in self._usual or self.is_merged(name)

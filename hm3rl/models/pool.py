"""`ModelPool`: the base and its experts, loaded once, never changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hm3rl.config.schema import PoolSettings
from hm3rl.config.values import choices
from hm3rl.errors import InputError
from hm3rl.models.compatibility import check_mergeable, differences
from hm3rl.models.fingerprint import folder_hash
from hm3rl.models.loading import load_model
from hm3rl.models.names import BASE
from hm3rl.models.shallow import named_tensors
from hm3rl.models.source import Sources, read_sources
from hm3rl.models.zoo import resolve_source

ARCHITECTURES = choices(PoolSettings, "architecture")
"""Whether all sources must have the base's architecture, or only its hidden size."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_RESERVED = ("base", "stem", "merged", "none")


@dataclass(frozen=True)
class ModelPool:
    """The sources of a search: resident, compatible with each other, identified by content.

    Attributes:
        expert_names: Names of the experts, in the order the user gave them.
        hashes: Content hash (64 hex digits) by source name.
        paths: Folder by source name.
        origins: What the user wrote for each source: a folder or "zoo:NAME".
        tokenizer: The tokenizer all sources share.
        tokenizer_donor: Name of the source whose folder the tokenizer came from.
        dtype: Precision the weights are held in.
        device: Where they are held.
        notes: What the sources' folders claim and do not hold, what was changed to bring them to
            one vocabulary, and which have the same weights, in words.
        changed: Sources whose tensors the vocabulary changed; their hashes say so too.
        adapters: Experts that are adapters over the base, already merged into its weights.
        matched: Experts whose units were put into the order of the base's; their hashes say so too.
    """

    expert_names: tuple[str, ...]
    hashes: Mapping[str, str]
    paths: Mapping[str, Path]
    origins: Mapping[str, str]
    tokenizer: PreTrainedTokenizerBase
    tokenizer_donor: str
    dtype: torch.dtype
    device: str
    _models: Mapping[str, PreTrainedModel]
    base_name: str = BASE
    notes: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        base: str | Path,
        experts: Mapping[str, str | Path],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        *,
        architecture: str = "same",
        vocabulary: str = "refuse",
        tokenizer: str = "",
        writable: bool = False,
        adapters: str | Path = "",
    ) -> ModelPool:
        """Read and check all sources; the cheap checks of all of them come before any weights.

        Args:
            base: Folder of the base, or "zoo:NAME".
            experts: Folder (or "zoo:NAME") by expert name, at least one; a folder may hold an
                adapter over the base, which PEFT merges.
            dtype: Precision to hold the weights in.
            device: Where to hold them.
            architecture: "same": all sources can be merged and any path exported; "mixed": sources
                of the base's hidden size are welcome, to be stitched in process (see `mergeable`).
            vocabulary: "refuse" or "map", see `models/vocabulary.py`.
            tokenizer: Source whose vocabulary all share; empty: the base.
            writable: Whether a checkpoint shall come of it, which not every type of model allows.
            adapters: Folder of the adapters that "smollm2:NAME" names.

        Returns:
            The pool.

        Raises:
            InputError: Anything about names, folders, files, weights or compatibility is wrong.
        """
        check_names(experts)
        if architecture not in ARCHITECTURES:
            raise InputError(
                f"unknown pool.architecture {architecture!r}", f"one of {', '.join(ARCHITECTURES)}"
            )
        labels = source_labels(experts)
        given = {BASE: base, **experts}
        paths = {name: resolve_source(source, adapters) for name, source in given.items()}
        read = read_sources(
            paths,
            labels,
            base=BASE,
            mixed=architecture == "mixed",
            vocabulary=vocabulary,
            tokenizer=tokenizer,
            writable=writable,
        )
        return cls.of_sources(read, given, dtype, device)

    @classmethod
    def of_sources(
        cls,
        read: Sources,
        origins: Mapping[str, str | Path],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> ModelPool:
        """Load sources that were checked.

        Args:
            read: What `read_sources` gives.
            origins: What the user wrote for each source.
            dtype: Precision to hold the weights in.
            device: Where to hold them.

        Returns:
            The pool.

        Raises:
            InputError: Weights that are not finite, or stored in parts that do not fit.
        """
        paths = read.paths
        models = {
            name: load_model(source.label, source.folder, source.config, dtype, device)
            for name, source in read.whole.items()
        }
        hashes = {n: folder_hash(paths[n], list(s.files)) for n, s in read.whole.items()}
        for name, adapter in read.adapters.items():
            models[name] = adapter.model(models[BASE])
            hashes[name] = adapter.content_hash(hashes[BASE])
        plan = read.plan
        plan.unify(models)
        return cls(
            expert_names=tuple(name for name in paths if name != BASE),
            hashes=MappingProxyType({n: plan.content_hash(n, hashes) for n in paths}),
            paths=paths,
            origins=MappingProxyType({name: str(origin) for name, origin in origins.items()}),
            tokenizer=plan.tokenizer,
            tokenizer_donor=plan.donor,
            dtype=dtype,
            device=device,
            _models=MappingProxyType({name: models[name] for name in paths}),
            adapters=tuple(read.adapters),
            notes=read.notes,
            changed=plan.changed,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All sources: experts in order, then the base."""
        return (*self.expert_names, BASE)

    def model(self, name: str) -> PreTrainedModel:
        """Return a source; it is shared, so never change it.

        Raises:
            KeyError: No such source.
        """
        return self._models[name]

    @cached_property
    def mergeable(self) -> tuple[str, ...]:
        """Experts of the base's architecture; of a pool that is not mixed, all of them."""
        return tuple(
            name
            for name in self.expert_names
            if not differences(self.config, self.model(name).config)
        )

    def merging(self) -> ModelPool:
        """Return this pool with the mergeable experts only; the models are the same."""
        if self.mergeable == self.expert_names:
            return self
        return replace(self, expert_names=self.mergeable)

    def with_matched(
        self,
        models: Mapping[str, PreTrainedModel],
        keys: Mapping[str, str],
        notes: Sequence[str],
    ) -> ModelPool:
        """Return this pool with the units of some experts in another order.

        Args:
            models: The experts' new models, by name.
            keys: What tells their orders from any other, by name; their hashes follow.
            notes: What was done, in words.
        """
        fresh = {
            name: hashlib.sha256(f"{self.hashes[name]}\0units\0{key}".encode()).hexdigest()
            for name, key in keys.items()
        }
        return replace(
            self,
            _models=MappingProxyType({**self._models, **models}),
            hashes=MappingProxyType({**self.hashes, **fresh}),
            notes=(*self.notes, *notes),
            matched=tuple(name for name in self.expert_names if name in models),
        )

    def check_mergeable(self, names: Iterable[str]) -> None:
        """Require that experts can be merged: equal shapes, and one configuration for all.

        Args:
            names: Experts.

        Raises:
            InputError: One has another architecture than the base; names both sides.
        """
        for name in names:
            check_mergeable(self.config, self.model(name).config, f"expert {name!r}")

    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        """Return a source's stored tensors by name, tied ones once; never change them.

        Raises:
            KeyError: No such source.
        """
        return named_tensors(self._models[name])

    @property
    def config(self) -> PretrainedConfig:
        """Configuration of the base; the experts' agree in what counts, unless they are mixed."""
        return self._models[BASE].config

    @property
    def num_layers(self) -> int:
        """Decoder layers of the base, and of every source unless they are mixed."""
        return int(self.config.num_hidden_layers)

    @cached_property
    def max_positions(self) -> int | None:
        """Tokens that every source takes, None if their configurations do not say."""
        limits = [getattr(m.config, "max_position_embeddings", None) for m in self._models.values()]
        return min((int(limit) for limit in limits if limit is not None), default=None)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)


def source_labels(experts: Iterable[str]) -> dict[str, str]:
    """Say how messages name the base and these experts."""
    return {BASE: "base", **{name: f"expert {name!r}" for name in experts}}


def check_names(experts: Mapping[str, str | Path]) -> None:
    """Require names that can stand in paths, preferences and file names.

    Raises:
        InputError: There is no expert, or one has a name that cannot be.
    """
    if not experts:
        raise InputError("no expert is given", "name at least one: --expert NAME=FOLDER")
    for name in experts:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise InputError(
                f"{name!r} cannot name an expert",
                f"use letters, digits, '_', '-' and '.', and none of {', '.join(_RESERVED)}",
            )

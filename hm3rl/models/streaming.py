"""Sources that are read from their files tensor by tensor, for models that do not fit into memory.

The files are memory-mapped: a tensor takes no memory of its own until it is changed. Only merging
works on such sources; to run or stitch them, load a `ModelPool`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from transformers import PretrainedConfig

from hm3rl.errors import InputError
from hm3rl.models.adapter import Adapter
from hm3rl.models.pool import BASE, check_names, source_labels
from hm3rl.models.source import StoredTensor, read_sources
from hm3rl.models.zoo import resolve_source


class FileTensors(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint's files, mapped into memory; order and names are the model's.

    Args:
        stored: Where each tensor is stored, by the model's name.
    """

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self._stored = stored
        files = {tensor.file for tensor in stored.values()}
        self._open: dict[Path, Any] = {f: safe_open(str(f), framework="pt") for f in files}

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        tensor: torch.Tensor = self._open[stored.file].get_tensor(stored.key)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


class AdaptedTensors(Mapping[str, torch.Tensor]):
    """Tensors of a base with an adapter over it; what the adapter changes is computed at each use.

    Args:
        base: The base's tensors.
        adapter: The adapter, checked against them.
    """

    def __init__(self, base: Mapping[str, torch.Tensor], adapter: Adapter) -> None:
        self._base = base
        self._adapter = adapter
        self._changed = frozenset(adapter.changed)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._base[name]
        return self._adapter.apply(name, tensor) if name in self._changed else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


@dataclass(frozen=True)
class StreamedSources:
    """Base and experts that stay in their files.

    Attributes:
        expert_names: Names of the experts, in the order the user gave them.
        paths: Folder by source name.
        config: Configuration of the base.
        tokenizer_donor: Name of the source whose tokenizer all share.
        shapes: Shape by name of every stored tensor, tied ones once, in module order.
        notes: What the sources' folders claim and do not hold, in words.
    """

    expert_names: tuple[str, ...]
    paths: Mapping[str, Path]
    config: PretrainedConfig
    tokenizer_donor: str
    shapes: Mapping[str, torch.Size]
    _tensors: Mapping[str, Mapping[str, torch.Tensor]]
    base_name: str = BASE
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, base: str | Path, experts: Mapping[str, str | Path]) -> StreamedSources:
        """Check all sources; configurations, tokenizers and headers are read, no weights.

        Args:
            base: Folder of the base, or "zoo:NAME".
            experts: Folder (or "zoo:NAME", or a LoRA adapter's folder) by expert name.

        Raises:
            InputError: A folder or file is wrong, or the sources differ in architecture, tensors or
                vocabulary.
        """
        check_names(experts)
        labels = source_labels(experts)
        paths = {name: resolve_source(p) for name, p in {BASE: base, **experts}.items()}
        read = read_sources(paths, labels, base=BASE, writable=True)
        if read.plan.notes:
            raise InputError(
                f"these sources cannot be merged from their files: {read.plan.notes[0]}",
                "load them as a ModelPool, which arranges rows",
            )
        config = read.configs[BASE]
        tensors: dict[str, Mapping[str, torch.Tensor]] = {}
        for name in paths:
            if name in read.whole:
                tensors[name] = FileTensors(read.whole[name].tensors)
            else:
                tensors[name] = AdaptedTensors(tensors[BASE], read.adapters[name])
        return cls(
            expert_names=tuple(experts),
            paths=MappingProxyType(paths),
            config=config,
            tokenizer_donor=read.plan.donor,
            shapes=MappingProxyType(read.whole[BASE].shapes),
            _tensors=MappingProxyType(tensors),
            notes=read.notes,
        )

    @property
    def num_layers(self) -> int:
        """Decoder layers of every source."""
        return int(self.config.num_hidden_layers)

    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        """Return a source's tensors by name; reading one maps it, it is not copied.

        Raises:
            KeyError: No such source.
        """
        return self._tensors[name]

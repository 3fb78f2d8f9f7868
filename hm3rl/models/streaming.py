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
from transformers import AutoModelForCausalLM, PretrainedConfig

from hm3rl.errors import InputError
from hm3rl.models.adapter import Adapter
from hm3rl.models.compatibility import check_configs
from hm3rl.models.loading import check_headers, find_weights, is_adapter, load_config
from hm3rl.models.pool import BASE, check_names
from hm3rl.models.shallow import named_tensors
from hm3rl.models.vocabulary import plan_vocabulary
from hm3rl.models.zoo import resolve_source

LEGACY = {"embed_out.weight": "lm_head.weight"}
"""Names under which a model's tensors are stored, where they differ (GPT-NeoX)."""


class FileTensors(Mapping[str, torch.Tensor]):
    """Tensors of a checkpoint's files, mapped into memory; order and names are the model's.

    Args:
        files: The safetensors files.
        names: Names to offer, all of them in one of the files.
    """

    def __init__(self, files: list[Path], names: tuple[str, ...]) -> None:
        self._names = names
        self._where: dict[str, tuple[Any, str]] = {}
        for file in files:
            handle = safe_open(str(file), framework="pt")
            self._where |= {LEGACY.get(key, key): (handle, key) for key in handle.keys()}

    def __getitem__(self, name: str) -> torch.Tensor:
        handle, key = self._where[name]
        tensor: torch.Tensor = handle.get_tensor(key)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
    """

    expert_names: tuple[str, ...]
    paths: Mapping[str, Path]
    config: PretrainedConfig
    tokenizer_donor: str
    shapes: Mapping[str, torch.Size]
    _tensors: Mapping[str, Mapping[str, torch.Tensor]]
    base_name: str = BASE

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
        labels = {BASE: "base", **{name: f"expert {name!r}" for name in experts}}
        paths = {name: resolve_source(p) for name, p in {BASE: base, **experts}.items()}
        files = {name: find_weights(labels[name], path) for name, path in paths.items()}
        for name, found in files.items():
            check_headers(labels[name], found)
        whole = [name for name, path in paths.items() if name == BASE or not is_adapter(path)]
        configs = {
            name: load_config(labels[name], paths[name if name in whole else BASE])
            for name in paths
        }
        check_configs({labels[n]: c for n, c in configs.items()})
        plan = plan_vocabulary(paths, labels, configs)
        if plan.notes:
            raise InputError(
                f"these sources cannot be merged from their files: {plan.notes[0]}",
                "load them as a ModelPool, which arranges rows",
            )
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(configs[BASE])
        shapes = {name: tensor.shape for name, tensor in named_tensors(skeleton).items()}
        tensors: dict[str, Mapping[str, torch.Tensor]] = {}
        for name in paths:
            if name in whole:
                _check_tensors(labels[name], files[name], shapes, set(skeleton.state_dict()))
                tensors[name] = FileTensors(files[name], tuple(shapes))
            else:
                adapter = Adapter.read(labels[name], paths[name], files[name][0])
                adapter.check(shapes)
                tensors[name] = AdaptedTensors(tensors[BASE], adapter)
        return cls(
            expert_names=tuple(experts),
            paths=MappingProxyType(paths),
            config=configs[BASE],
            tokenizer_donor=plan.donor,
            shapes=MappingProxyType(shapes),
            _tensors=MappingProxyType(tensors),
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


def _check_tensors(
    label: str, files: list[Path], shapes: Mapping[str, torch.Size], known: set[str]
) -> None:
    """Require exactly the model's tensors; a tied tensor may be stored under its other name too."""
    given: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as handle:
            given |= {
                LEGACY.get(key, key): tuple(handle.get_slice(key).get_shape())
                for key in handle.keys()
            }
    wrong = [name for name, shape in shapes.items() if given.get(name) != tuple(shape)]
    wrong += sorted(given.keys() - known)
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{label}: {len(wrong)} tensors do not fit config.json, e.g. {name}: shape "
            f"{given.get(name)} against {tuple(shapes[name]) if name in shapes else None}",
            "load the sources as a ModelPool, or save this one again with `save_pretrained`",
        )

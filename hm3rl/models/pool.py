"""`ModelPool`: the base and its experts, loaded once, never changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import (
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hm3rl.errors import InputError
from hm3rl.models.compatibility import check_configs, check_tokenizer_rows, check_vocabulary
from hm3rl.models.fingerprint import folder_hash
from hm3rl.models.loading import (
    check_headers,
    find_weights,
    load_config,
    load_model,
    quiet_transformers,
)
from hm3rl.models.zoo import resolve_source

BASE = "base"
"""Name of the base among the members."""

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

    @classmethod
    def load(
        cls,
        base: str | Path,
        experts: Mapping[str, str | Path],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> ModelPool:
        """Read and check all sources; the cheap checks of all of them come before any weights.

        Args:
            base: Folder of the base, or "zoo:NAME".
            experts: Folder (or "zoo:NAME") by expert name, at least one.
            dtype: Precision to hold the weights in.
            device: Where to hold them.

        Returns:
            The pool.

        Raises:
            InputError: Anything about names, folders, files, weights or compatibility is wrong.
        """
        _check_names(experts)
        labels = {BASE: "base", **{name: f"expert {name!r}" for name in experts}}
        paths = {name: resolve_source(p) for name, p in {BASE: base, **experts}.items()}
        files = {name: find_weights(labels[name], path) for name, path in paths.items()}
        for name, found in files.items():
            check_headers(labels[name], found)
        configs = {labels[name]: load_config(labels[name], path) for name, path in paths.items()}
        check_configs(configs)
        tokenizer, donor = _shared_tokenizer(paths, labels)
        check_tokenizer_rows(len(tokenizer), configs[labels[BASE]].vocab_size, paths[donor])
        models = {name: load_model(labels[name], p, dtype, device) for name, p in paths.items()}
        return cls(
            expert_names=tuple(experts),
            hashes=MappingProxyType({n: folder_hash(p, files[n]) for n, p in paths.items()}),
            paths=MappingProxyType(paths),
            origins=MappingProxyType({n: str(o) for n, o in {BASE: base, **experts}.items()}),
            tokenizer=tokenizer,
            tokenizer_donor=donor,
            dtype=dtype,
            device=device,
            _models=MappingProxyType(models),
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

    @property
    def config(self) -> PretrainedConfig:
        """Configuration of the base; the experts' agree in everything that matters."""
        return self._models[BASE].config

    @property
    def num_layers(self) -> int:
        """Decoder layers of every source."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)


def _check_names(experts: Mapping[str, str | Path]) -> None:
    if not experts:
        raise InputError("no expert is given", "name at least one: --expert NAME=FOLDER")
    for name in experts:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise InputError(
                f"{name!r} cannot name an expert",
                f"use letters, digits, '_', '-' and '.', and none of {', '.join(_RESERVED)}",
            )


def _shared_tokenizer(
    paths: Mapping[str, Path], labels: Mapping[str, str]
) -> tuple[PreTrainedTokenizerBase, str]:
    """Take the base's tokenizer, or the first expert's if it has none; compare all others."""
    owners = [n for n, p in paths.items() if any(p.glob("tokenizer*")) or any(p.glob("vocab*"))]
    if not owners:
        raise InputError(
            f"no source has a tokenizer (looked for tokenizer.json in {paths[BASE]} and others)",
            "save it beside the base: tokenizer.save_pretrained(FOLDER)",
        )
    donor = owners[0]
    tokenizer = _load_tokenizer(paths[donor], labels[donor])
    for name in owners[1:]:
        mine, its = paths[donor] / "tokenizer.json", paths[name] / "tokenizer.json"
        if mine.is_file() and its.is_file() and mine.read_bytes() == its.read_bytes():
            continue
        check_vocabulary(
            tokenizer, _load_tokenizer(paths[name], labels[name]), labels[name], labels[donor]
        )
    return tokenizer, donor


def _load_tokenizer(folder: Path, label: str) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise InputError(
            f"{label}: the tokenizer in {folder} cannot be read ({type(error).__name__}: {error})",
            "save it again with tokenizer.save_pretrained(FOLDER)",
        ) from error

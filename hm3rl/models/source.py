"""Sources before their weights are loaded: what the files hold, compared with what configs claim.

A configuration is a claim, the weights are the fact. Here the two are compared, by the headers of
the files: number and shape of tensors must agree with config.json, and whether a head is tied is
decided by what is stored. `read_sources` is what everybody goes through who takes sources: the
pool, merges from files to files, and `hm3rl check`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from safetensors import safe_open
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.adapter import Adapter
from hm3rl.models.compatibility import adopt_positions, check_configs
from hm3rl.models.loading import (
    INDEX_FILE,
    SINGLE_FILE,
    check_headers,
    find_weights,
    is_adapter,
    load_config,
    read_json,
)
from hm3rl.models.tensor_names import check_writable, loaded_names, skeleton, superfluous
from hm3rl.models.vocabulary import Vocabulary, plan_vocabulary

GENERATION = "generation_config.json"

COMPILED = "_orig_mod."
"""What `torch.compile` puts before the name of every tensor."""


class StoredTensor(NamedTuple):
    """Where a tensor is stored, and what the file's header says about it.

    Attributes:
        file: The file.
        key: Its name there.
        dtype: Its type as safetensors names it, e.g. "BF16".
        shape: Its shape.
    """

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Source:
    """The folder of one whole model.

    Attributes:
        label: How messages name it.
        folder: The folder.
        files: What loading it reads.
        config: Its configuration, corrected by what the files hold.
        tensors: By the model's name of each tensor where it is stored, tied ones once, in the
            model's order. Of tensors that are stored in parts, the parts, by their own names.
        notes: What was corrected, in words.
    """

    label: str
    folder: Path
    files: tuple[Path, ...]
    config: PretrainedConfig
    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Base and experts that fit together, checked without loading the weights of whole models.

    Attributes:
        paths: Folder by source name, base first.
        labels: How messages name each source.
        whole: The folders of whole models, by source name.
        adapters: The adapters, by source name.
        configs: Configuration by source name; an adapter has the base's.
        plan: How all come to one vocabulary.
        notes: What differs from what the folders claim, in words.
    """

    paths: Mapping[str, Path]
    labels: Mapping[str, str]
    whole: Mapping[str, Source]
    adapters: Mapping[str, Adapter]
    configs: Mapping[str, PretrainedConfig]
    plan: Vocabulary
    notes: tuple[str, ...]


def read_source(label: str, folder: Path) -> Source:
    """Check the folder of one whole model.

    Args:
        label: How messages name it.
        folder: The folder.

    Raises:
        InputError: Anything about its files is wrong, or they do not fit its config.json.
    """
    files = find_weights(label, folder)
    check_headers(label, files)
    return _compare(label, folder, files, load_config(label, folder))


def read_sources(
    paths: Mapping[str, Path],
    labels: Mapping[str, str],
    *,
    base: str,
    mixed: bool = False,
    vocabulary: str = "refuse",
    tokenizer: str = "",
    writable: bool = False,
) -> Sources:
    """Check base and experts, the cheap checks of all of them first.

    Args:
        paths: Folder by source name, base first.
        labels: How messages name each source.
        base: Name of the base.
        mixed: Whether sources of other architectures are welcome, see `check_configs`.
        vocabulary: "refuse" or "map", see `models/vocabulary.py`.
        tokenizer: Source whose vocabulary all share; empty: the first that has one.
        writable: Whether a checkpoint shall come of it, which not every type of model allows.

    Raises:
        InputError: Anything about a folder is wrong, two do not fit together, or no checkpoint can
            come of them.
    """
    files = {name: find_weights(labels[name], path) for name, path in paths.items()}
    for name, found in files.items():
        check_headers(labels[name], found)
    if is_adapter(paths[base]):
        raise InputError(
            f"base: {paths[base]} is an adapter", "give the model it was trained on as the base"
        )
    adapters = {
        name: Adapter.read(labels[name], path, files[name][0])
        for name, path in paths.items()
        if is_adapter(path)
    }
    own = {n: load_config(labels[n], path) for n, path in paths.items() if n not in adapters}
    positions = [adopt_positions(own[base], c, labels[n], labels[base]) for n, c in own.items()]
    check_configs(
        {labels[n]: own.get(n, own[base]) for n in paths},
        {labels[n]: path for n, path in paths.items()},
        mixed=mixed,
    )
    whole = {n: _compare(labels[n], paths[n], files[n], config) for n, config in own.items()}
    unwritable = ""
    try:
        check_writable(whole[base].config)
    except InputError as error:
        if writable:
            raise
        unwritable = f"no checkpoint can be exported: {error.what}"
    for adapter in adapters.values():
        adapter.check(whole[base].config)
    configs = {name: whole.get(name, whole[base]).config for name in paths}
    plan = plan_vocabulary(paths, labels, configs, vocabulary, tokenizer)
    notes = [note for source in whole.values() for note in source.notes]
    notes += [note for note in (*positions, unwritable) if note]
    notes += _same_weights(whole, adapters, paths, labels)
    return Sources(
        MappingProxyType(dict(paths)),
        MappingProxyType(dict(labels)),
        MappingProxyType(whole),
        MappingProxyType(adapters),
        MappingProxyType(configs),
        plan,
        (*notes, *plan.notes),
    )


def _same_weights(
    whole: Mapping[str, Source],
    adapters: Mapping[str, Adapter],
    paths: Mapping[str, Path],
    labels: Mapping[str, str],
) -> list[str]:
    """Say which sources have the weights of an earlier one, whatever their folders are called.

    A pool of one model, which stands as base and as only expert, is meant so.
    """
    if len(set(paths.values())) == 1:
        return []

    def same(ours: str, theirs: str) -> bool:
        if ours in whole and theirs in whole:
            return _same_tensors(whole[ours].tensors, whole[theirs].tensors)
        if ours in adapters and theirs in adapters:
            return adapters[ours].content_hash("") == adapters[theirs].content_hash("")
        # The base comes first, so it is the base that an adapter is compared with.
        return ours in adapters and theirs == next(iter(paths)) and adapters[ours].idle

    names = list(paths)
    pairs = ((n, next((m for m in names[:i] if same(n, m)), None)) for i, n in enumerate(names))
    return [
        f"{labels[name]} has the same weights as {labels[twin]}: it adds nothing to the pool"
        for name, twin in pairs
        if twin is not None
    ]


def _same_tensors(ours: Mapping[str, StoredTensor], theirs: Mapping[str, StoredTensor]) -> bool:
    """Whether two models store equal tensors; the small ones come first, and tell most apart."""
    if ours.keys() != theirs.keys():
        return False
    return all(
        ours[name].shape == theirs[name].shape
        and ours[name].dtype == theirs[name].dtype
        and torch.equal(read_tensor(ours[name]), read_tensor(theirs[name]))
        for name in sorted(ours, key=lambda name: ours[name].elements)
    )


def _compare(label: str, folder: Path, files: list[Path], config: PretrainedConfig) -> Source:
    """Compare the headers of the files with a configuration, and correct the latter."""
    notes: list[str] = []
    if (folder / GENERATION).is_file():
        read_json(label, folder / GENERATION)  # transformers would go without, or break off late
    if files[0].name == SINGLE_FILE and (folder / INDEX_FILE).is_file():
        notes.append(f"{label}: {SINGLE_FILE} is read, not the shard index beside it")
    model = _skeleton(label, folder, config)
    stored: dict[str, StoredTensor] = {}
    for file in files:
        stored |= _header(file)
    became = loaded_names(model, stored)
    parts = {key for key, (_, packed) in became.items() if packed}
    given = {became[key][0]: tensor for key, tensor in stored.items() if key not in parts}
    made = {became[key][0] for key in parts} | given.keys()
    wanted = dict(model.state_dict())
    for tied, kept in model.all_tied_weights_keys.items():
        _settle_tie(label, (tied, kept), given, config, notes)
        made |= {tied, kept} if {tied, kept} & made else set()
    _check_names(label, folder, model, stored, made)
    _check_rope(label, folder, config, stored)
    for name, tensor in given.items():
        if name in wanted and tensor.shape != tuple(wanted[name].shape):
            raise _wrong_shape(label, folder, model, name, tensor)
    order = [name for name in wanted if name in given]
    tensors = {name: given[name] for name in order} | {key: stored[key] for key in sorted(parts)}
    return Source(label, folder, tuple(files), config, MappingProxyType(tensors), tuple(notes))


def _skeleton(label: str, folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    try:
        return skeleton(config)
    except Exception as error:  # the library raises a dozen kinds, all of them mean "bad config"
        file = folder / "config.json"
        asked = config._attn_implementation
        if asked is not None and "attn_implementation" in file.read_text(encoding="utf-8"):
            raise InputError(
                f"{label}: {file} asks for the attention {asked!r}, which cannot run here "
                f"({str(error).strip().splitlines()[0]})",
                f'delete the line "attn_implementation": {json.dumps(asked)} from {file}; which '
                "attention runs is no property of the model",
            ) from error
        raise InputError(
            f"{label}: no model can be built from {file} ({type(error).__name__}: {error})",
            "the model must be a causal language model that transformers knows without remote code",
        ) from error


def _header(file: Path) -> dict[str, StoredTensor]:
    with safe_open(str(file), framework="pt") as handle:
        slices = {key: handle.get_slice(key) for key in handle.keys()}
        return {
            key: StoredTensor(file, key, part.get_dtype(), tuple(part.get_shape()))
            for key, part in slices.items()
        }


def _settle_tie(
    label: str,
    pair: tuple[str, str],
    given: dict[str, StoredTensor],
    config: PretrainedConfig,
    notes: list[str],
) -> None:
    """Decide by what is stored whether two tensors are one, as the configuration claims."""
    tied, kept = pair
    if tied not in given:
        return
    if kept not in given:
        given[kept] = given.pop(tied)
        return
    if given[tied].shape == given[kept].shape and torch.equal(
        read_tensor(given[tied]), read_tensor(given[kept])
    ):
        del given[tied]
        return
    config.tie_word_embeddings = False
    notes.append(
        f"{label}: config.json says that {tied} is tied to {kept}, but a {tied} of its own is "
        "stored and differs: it is what is used, and the model counts as untied"
    )


def read_tensor(stored: StoredTensor) -> torch.Tensor:
    """Map a tensor from its file."""
    with safe_open(str(stored.file), framework="pt") as handle:
        tensor: torch.Tensor = handle.get_tensor(stored.key)
    return tensor


def _check_names(
    label: str,
    folder: Path,
    model: PreTrainedModel,
    stored: Mapping[str, StoredTensor],
    made: set[str],
) -> None:
    """Require exactly the model's tensors."""
    wanted = model.state_dict().keys()
    missing = sorted(wanted - made)
    unknown = sorted(superfluous(model, made - wanted))
    if missing and any(key.startswith(COMPILED) for key in stored):
        raise InputError(
            f"{label}: {folder} was saved from a compiled model: its tensors are called "
            f"{COMPILED}NAME",
            "save the model inside: model._orig_mod.save_pretrained(FOLDER)",
        )
    head = getattr(model.get_output_embeddings(), "weight", None)
    heads = {n for n, p in model.named_parameters(remove_duplicate=False) if p is head}
    if missing and set(missing) <= heads:
        raise InputError(
            f"{label}: {folder} does not fit its config.json: it says that the head is not tied to "
            f"the embedding, and no {missing[0]} is stored",
            f'write "tie_word_embeddings": true in {folder / "config.json"} if the head is the '
            "embedding, or finish the download",
        )
    for what, names in (("missing", missing), ("unexpected", unknown)):
        if names:
            raise InputError(
                f"{label}: {folder} does not fit its config.json ({model.config.model_type}, "
                f"{model.config.num_hidden_layers} layers): {len(names)} {what} tensors, e.g. "
                f"{names[0]}",
                "give the config.json that belongs to these weights, or save the model again with "
                "`save_pretrained`",
            )


def _check_rope(
    label: str, folder: Path, config: PretrainedConfig, stored: Mapping[str, StoredTensor]
) -> None:
    """Compare the base of an unscaled rope with the frequencies that old files store."""
    rope = getattr(config, "rope_parameters", None) or {}
    key = next((key for key in stored if key.endswith("rotary_emb.inv_freq")), None)
    if key is None or rope.get("rope_type") != "default" or not rope.get("rope_theta"):
        return
    found = read_tensor(stored[key]).double()
    wanted = float(rope["rope_theta"]) ** -(torch.arange(len(found)).double() / len(found))
    # Stored in 16 bits, they are rounded; the smallest ones are below what float16 holds exactly.
    if torch.allclose(found, wanted, rtol=2e-2, atol=1e-7):
        return
    theta = found[1].item() ** -len(found) if len(found) > 1 and found[1] > 0 else float("nan")
    raise InputError(
        f"{label}: {folder} does not fit its config.json: its rope has the base "
        f"{rope['rope_theta']:g}, the stored {key} one of about {theta:.3g}",
        f'write the "rope_theta" that the model was trained with in {folder / "config.json"}',
    )


def _wrong_shape(
    label: str, folder: Path, model: PreTrainedModel, name: str, tensor: StoredTensor
) -> InputError:
    wanted = model.state_dict()[name].shape
    rows = tensor.shape[0] if tensor.shape[1:] == tuple(wanted[1:]) else None
    tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    module = model.get_submodule(name.rpartition(".")[0])
    remedy = "give the config.json that belongs to these weights"
    if rows is not None and id(module) in tables and len(wanted) == 2:
        remedy = f'write "vocab_size": {rows} in {folder / "config.json"}'
    return InputError(
        f"{label}: {folder} does not fit its config.json: {name} has shape {tensor.shape}, "
        f"config.json asks for {tuple(wanted)}",
        remedy,
    )

"""Names of tensors: a model's own, and those that its files give them.

transformers renames tensors while it loads and renames them back when it saves: the head of
GPT-NeoX is `lm_head.weight` in the model and `embed_out.weight` in every file, old GPT-2 files
leave out `transformer.`, and the experts of a mixture are packed in the model and lie apart in the
files. Everything here follows the library's own mapping, without reading any weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    apply_converters,
    apply_renamings,
    rename_source_key,
    revert_weight_conversion,
)

from hm3rl.errors import InputError
from hm3rl.models.loading import OBSOLETE, quiet_transformers


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """Build the model of a configuration without memory for its weights.

    Raises:
        Exception: Of whatever kind transformers raises for a configuration it cannot build.
    """
    with quiet_transformers(), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def loaded_names(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """Say which of a model's tensors each tensor of its files becomes.

    Args:
        model: The model, or its skeleton.
        stored: Names in the files.

    Returns:
        By name in the files the model's name, and whether several stored tensors are packed into
        it; a name that is none of the model's stands for a tensor that the model does not have.
    """
    known: dict[str, Any] = dict(model.state_dict())
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    found: dict[str, tuple[str, bool]] = {}
    for key in stored:
        prefix = model.base_model_prefix
        name, packed = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, packed = key, None
        found[key] = (name, packed is not None)
    return found


def superfluous(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Filter names that the model does not have: those left are no buffers of older versions."""
    report = SimpleNamespace(missing_keys=set(), unexpected_keys=set(names))
    model._adjust_missing_and_unexpected_keys(report)  # type: ignore[arg-type]
    return {name for name in report.unexpected_keys if not OBSOLETE.search(name)}


def saved_names(model: PreTrainedModel) -> dict[str, str]:
    """Say under which name a file must hold each of a model's tensors.

    Args:
        model: Any model, stitched or not.

    Returns:
        Name in the files by name in the state dict; what is never saved is left out.

    Raises:
        InputError: The files would hold a tensor in parts, which cannot be written.
    """
    # Not the mapping that loading left on the model: a file in other names may have been loaded.
    mapping = [entry.reverse_transform() for entry in _saving(model)]
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    names: dict[str, str] = {}
    for name in model.state_dict():
        if name in (model._keys_to_ignore_on_save or ()):
            continue
        _, packed = apply_converters(name, converters)
        if packed is not None:
            raise InputError(
                f"a model of type {model.config.model_type!r} cannot be written: {name} is packed "
                "in memory and lies apart in files",
                "search and score such models in process, or merge their files with mergekit",
            )
        names[name] = apply_renamings(name, renamings)
    return names


def check_writable(config: PretrainedConfig) -> None:
    """Require that files of such a model can be written, before its weights are loaded.

    Raises:
        InputError: They would hold a tensor in parts.
    """
    saved_names(skeleton(config))


def _saving(model: PreTrainedModel) -> list[Any]:
    """The library's mapping in the order of saving, without what only loading knows."""
    found: list[Any] = get_model_conversion_mapping(model, add_legacy=False)
    return [entry for entry in reversed(found) if type(entry).__name__ != "PrefixChange"]


def names_in_files(config: PretrainedConfig) -> set[str]:
    """List the tensors that `save_pretrained` would write for a configuration.

    Found by the library's own way of saving, so that it is a check of `saved_names`.

    Args:
        config: A configuration; whether its head is tied decides about the head.
    """
    model = skeleton(config)
    tied = set(model.all_tied_weights_keys)
    kept = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in tied and name not in (model._keys_to_ignore_on_save or ())
    }
    return set(revert_weight_conversion(model, kept))

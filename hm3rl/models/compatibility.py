"""May these sources be merged and stitched? Every refusal names both sides.

Merging needs tensors of equal name and shape and one configuration for all of them. Stitching in
process needs an equal hidden size only: every layer brings its own settings. A pool is of one
architecture unless it is asked to be `mixed`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from hm3rl.errors import InputError

COMPARED = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "n_inner",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "attention_bias",
    "mlp_bias",
    "use_parallel_residual",
    "query_pre_attn_scalar",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "max_position_embeddings",
)
"""Configuration entries that must agree within one architecture (absent counts as a value).

Not the vocabulary size and not whether the head is tied: `models/vocabulary.py` brings the sources
of a pool to one vocabulary and one kind of head.
"""

SHAPES = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "n_inner",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_bias",
    "mlp_bias",
)
"""Those of them that the weights settle: no edit of config.json mends a difference."""

_ABSENT = "absent"


def differences(
    ours: PretrainedConfig, theirs: PretrainedConfig, entries: Sequence[str] = COMPARED
) -> list[tuple[str, Any, Any]]:
    """List the entries in which two configurations differ.

    Returns:
        Triples (entry, value in `ours`, value in `theirs`), in the order of `entries`.
    """
    pairs = ((k, getattr(ours, k, _ABSENT), getattr(theirs, k, _ABSENT)) for k in entries)
    return [(key, a, b) for key, a, b in pairs if a != b]


def describe(found: Sequence[tuple[str, Any, Any]], label: str, base_label: str) -> str:
    """Put differences into words: the first with both values, the others by name."""
    key, ours, theirs = found[0]
    more = f" (and in {', '.join(k for k, _, _ in found[1:])})" if found[1:] else ""
    return f"{label} and {base_label} differ in {key}: {theirs} against {ours}{more}"


def adopt_positions(
    base: PretrainedConfig, config: PretrainedConfig, label: str, base_label: str
) -> str:
    """Give a source that differs from the base in its longest input alone the base's, in place.

    Only where the positions are rotary and unscaled: nothing that a model computes depends on the
    number then. Learned positions and scaled ropes stay different.

    Args:
        base: The base's configuration.
        config: The source's; changed if the above holds.
        label: How messages name the source.
        base_label: How they name the base.

    Returns:
        What was done, in words; empty: nothing.
    """
    found = differences(base, config)
    if [key for key, _, _ in found] != ["max_position_embeddings"] or not _plain_rope(base):
        return ""
    ((_, ours, theirs),) = found
    config.max_position_embeddings = ours
    return (
        f"{label} names {theirs} positions as its longest input, {base_label} {ours}: the "
        f"{base_label}'s number is taken; with unscaled rope nothing else depends on it"
    )


def _plain_rope(config: PretrainedConfig) -> bool:
    """Whether positions are rotary and unscaled in every layer."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return False
    kinds = [entry for entry in rope.values() if isinstance(entry, dict)] or [rope]
    return all(kind.get("rope_type", "default") == "default" for kind in kinds)


def check_configs(
    configs: Mapping[str, PretrainedConfig], folders: Mapping[str, Path], mixed: bool = False
) -> None:
    """Compare every source with the first one, the base.

    Args:
        configs: Configuration by source label, base first.
        folders: Folder by source label, for the remedies.
        mixed: Whether sources of other architectures are welcome, as far as they can be stitched.

    Raises:
        InputError: Two sources differ; names the entry, both sources and both values.
    """
    (base_label, base), *others = configs.items()
    for label, config in others:
        obstacle = stitching_obstacle(base, config)
        if mixed and obstacle:
            raise InputError(
                f"{describe(obstacle, label, base_label)}: their layers cannot follow each other",
                "stitch sources of one hidden size",
            )
        found = differences(base, config)
        if found and not mixed:
            also = "" if obstacle else ", or set pool.architecture=mixed to stitch in process only"
            raise InputError(
                describe(found, label, base_label),
                f"experts must be fine-tuned from the base, with its architecture"
                f"{_line_to_edit(base, found, folders[label])}{also}",
            )


def _line_to_edit(
    base: PretrainedConfig, found: Sequence[tuple[str, Any, Any]], folder: Path
) -> str:
    """What to write into an expert's config.json, where only that file can be wrong."""
    keys = [key for key, _, _ in found]
    if any(key in SHAPES for key in keys):
        return ""
    lines = [
        f'"{base.attribute_map.get(key, key)}": {json.dumps(ours, default=str)}'
        for key, ours, _ in found
        if ours is not _ABSENT
    ]
    if not lines:
        return ""
    return (
        f"; if this one was trained so, and only its config.json says otherwise, write "
        f"{', '.join(lines)} in {folder / 'config.json'}"
    )


def check_mergeable(base: PretrainedConfig, config: PretrainedConfig, label: str) -> None:
    """Require that a source can be merged with the base: one configuration for both.

    Raises:
        InputError: It has another architecture; names both sides.
    """
    found = differences(base, config)
    if found:
        raise InputError(
            f"{describe(found, label, 'base')}, so it cannot be merged",
            "stitch its layers instead, for example with search=architecture_only",
        )


def stitching_obstacle(
    ours: PretrainedConfig, theirs: PretrainedConfig
) -> list[tuple[str, Any, Any]]:
    """List what forbids layers of two architectures in one model, even in process.

    Returns:
        Triples as `differences` gives them; empty: nothing does.
    """
    found = differences(ours, theirs, ("hidden_size",))
    way = bool(getattr(ours, "use_bidirectional_attention", False))
    other = bool(getattr(theirs, "use_bidirectional_attention", False))
    if way != other:
        found.append(("use_bidirectional_attention", way, other))
    return found


def check_tokenizer_rows(tokens: int, rows: int, folder: Path) -> None:
    """Require an embedding row for every token; spare rows are fine (padding to a multiple).

    Raises:
        InputError: The tokenizer knows more tokens than the embedding has rows.
    """
    if tokens > rows:
        raise InputError(
            f"the tokenizer in {folder} has {tokens} tokens, the embedding only {rows} rows",
            "resize the embedding, or remove the added tokens from the tokenizer",
        )

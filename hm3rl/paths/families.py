"""What differs between model families: where the layers live and what is kept per layer.

The only place with family names outside of tests. A family is known by the `model_type` of its
configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError

PER_LAYER_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Configuration lists with an entry for each layer; gathered by *source* index."""


@dataclass(frozen=True)
class Family:
    """Attribute names of one architecture.

    Attributes:
        inner: The decoder inside the causal language model.
        layers: The decoder's list of layers.
        attention: The attention inside a layer.
        norm: The decoder's final norm.
        embeddings: The decoder's embedding modules (with learned positions: both).
    """

    inner: str = "model"
    layers: str = "layers"
    attention: str = "self_attn"
    norm: str = "norm"
    embeddings: tuple[str, ...] = ("embed_tokens",)


_LLAMA_LIKE = Family()

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE,
    "gpt2": Family("transformer", "h", "attn", "ln_f", ("wte", "wpe")),
    "gpt_neox": Family("gpt_neox", "layers", "attention", "final_layer_norm", ("embed_in",)),
}
"""Families whose layers can be stitched, by `config.model_type`."""


def family_of(config: PretrainedConfig) -> Family:
    """Look a model's family up.

    Raises:
        InputError: Its layers cannot be stitched by this version.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(
            f"layers of model type {config.model_type!r} cannot be stitched",
            f"supported: {', '.join(FAMILIES)}",
        )
    return family


def decoder(model: PreTrainedModel) -> Any:
    """Return the decoder inside a causal language model."""
    return getattr(model, family_of(model.config).inner)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return a model's list of decoder layers."""
    return getattr(decoder(model), family_of(model.config).layers)


def layer_prefix(config: PretrainedConfig, layer: int) -> str:
    """Return the prefix of a layer's tensors in the state dict, e.g. `model.layers.3.`."""
    family = family_of(config)
    return f"{family.inner}.{family.layers}.{layer}."


def path_config(
    host: PretrainedConfig, sources: Sequence[tuple[PretrainedConfig, int]]
) -> PretrainedConfig:
    """Build the configuration of a stitched model.

    The number of layers is set and every per-layer list is gathered by source index, also where
    the length stays the same. The copy is shallow, hence cheap.

    Args:
        host: Configuration of the stem's member.
        sources: For each depth the configuration and the layer index of its source.

    Returns:
        A new configuration; `host` is unchanged.
    """
    config = copy.copy(host)
    config.num_hidden_layers = len(sources)
    for name in PER_LAYER_LISTS:
        if getattr(host, name, None) is not None:
            setattr(config, name, [getattr(source, name)[layer] for source, layer in sources])
    if hasattr(host, "max_window_layers"):
        # Only a default for `layer_types`, which are explicit now; kept within the new length.
        config.max_window_layers = min(host.max_window_layers, len(sources))
    return config


def check_expressible(config: PretrainedConfig, layers: Sequence[int]) -> None:
    """Refuse paths that run in process but that no plain checkpoint can express.

    Args:
        config: Configuration of the stitched model.
        layers: Source index of the layer at each depth.

    Raises:
        InputError: Says which setting depends on a layer's position.
    """
    inverse = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    moved = [(depth, layer) for depth, layer in enumerate(layers) if depth != layer]
    if inverse and moved:
        depth, layer = moved[0]
        raise InputError(
            f"layer {layer} stands at depth {depth}, but with scale_attn_by_inverse_layer_idx the "
            "depth scales its attention, so no checkpoint can express this path",
            "export a path that keeps every layer at its own depth",
        )

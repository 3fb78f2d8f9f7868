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
from hm3rl.models.compatibility import COMPARED

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
        branch_ends: Linear maps of a layer whose outputs are added to the residual stream.
        branch_norms: Instead of them, norms that stand between and multiply by 1 + weight.
    """

    inner: str = "model"
    layers: str = "layers"
    attention: str = "self_attn"
    norm: str = "norm"
    embeddings: tuple[str, ...] = ("embed_tokens",)
    branch_ends: tuple[str, ...] = ("self_attn.o_proj", "mlp.down_proj")
    branch_norms: tuple[str, ...] = ()

    @property
    def calling(self) -> tuple[str, ...]:
        """Equal for families whose layers are called alike by their decoders."""
        return self.inner, self.layers, self.attention


_LLAMA_LIKE = Family()
_GEMMA = Family(
    branch_ends=(), branch_norms=("post_attention_layernorm", "post_feedforward_layernorm")
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": _LLAMA_LIKE,
    "gpt2": Family(
        "transformer", "h", "attn", "ln_f", ("wte", "wpe"), ("attn.c_proj", "mlp.c_proj")
    ),
    "gpt_neox": Family(
        "gpt_neox",
        "layers",
        "attention",
        "final_layer_norm",
        ("embed_in",),
        ("attention.dense", "mlp.dense_4h_to_h"),
    ),
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


LAYER_ENTRIES = tuple(
    entry
    for entry in COMPARED
    if entry
    not in (
        "model_type",
        "num_hidden_layers",
        "layer_types",
        "sliding_window",
        "use_sliding_window",
        "max_position_embeddings",
        "final_logit_softcapping",
        "rope_parameters",
    )
)
"""Configuration entries that say what a single layer computes, whatever its index."""

SLIDING, FULL = "sliding_attention", "full_attention"


def layer_window(config: PretrainedConfig, layer: int) -> int | None:
    """Return the sliding window of a layer in tokens, None if it attends to everything."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    return window if types is None or types[layer] == SLIDING else None


def layer_rope(config: PretrainedConfig, layer: int) -> tuple[Any, ...] | None:
    """Return what determines a layer's rotary embedding, None for learned positions.

    Scaled forms may also depend on the longest input a model is made for; the default does not.
    """
    rope = getattr(config, "rope_parameters", None)
    if rope is None:
        return None
    if FULL in rope or SLIDING in rope:
        rope = rope.get(config.layer_types[layer], {})
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scaled = rope.get("rope_type", "default") != "default"
    return rope, head, config.max_position_embeddings if scaled else None


def layer_settings(config: PretrainedConfig, layer: int) -> dict[str, Any]:
    """Return everything outside its weights that says what a layer computes.

    Args:
        config: Configuration of a source, or of a stitched model.
        layer: Index of the layer there.

    Returns:
        Value by the name that messages use.
    """
    found: dict[str, Any] = {"family": config.model_type}
    found.update((name, getattr(config, name, None)) for name in LAYER_ENTRIES)
    found["sliding window"] = layer_window(config, layer)
    found["rope (parameters, head size, longest input)"] = layer_rope(config, layer)
    found["longest input"] = config.max_position_embeddings
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        found["attention scale by depth"] = f"1/{layer + 1}"
    return found


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
        if getattr(host, name, None) is None:
            continue
        lists = [(getattr(source, name, None), source, layer) for source, layer in sources]
        setattr(
            config,
            name,
            [
                entries[layer] if entries is not None else _kind(source, layer)
                for entries, source, layer in lists
            ],
        )
    if hasattr(host, "max_window_layers"):
        # Only a default for `layer_types`, which are explicit now; kept within the new length.
        config.max_window_layers = min(host.max_window_layers, len(sources))
    return config


def without_windows(config: PretrainedConfig) -> PretrainedConfig:
    """Copy a stitched configuration so that masks and cache keep everything.

    For paths whose windows one configuration cannot express; their layers narrow the mask
    themselves.
    """
    config = copy.copy(config)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [FULL] * config.num_hidden_layers
    else:
        config.sliding_window = None
    return config


def _kind(config: PretrainedConfig, layer: int) -> str:
    return FULL if layer_window(config, layer) is None else SLIDING

"""What may be permuted in a decoder: along which axes of its tensors units lie.

A unit is a channel of the residual stream, a hidden unit of an MLP, or a channel inside a head.
Reordering an axis wherever it occurs leaves the function as it is, as far as the architecture
allows it: the residual stream is one axis for embeddings, norms, projections and head, the hidden
units of a gated MLP are one for gate, up and down. Heads move as KV groups, query heads inside
their group, and value channels inside their KV head, together with the columns of the output
projection that read them. Rotary positions give every channel of queries and keys a frequency of
its own, so that inside a head they stay where they are, and the norms over them with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.fingerprint import tensor_bytes
from hm3rl.models.shallow import deep_shallow_copy, named_tensors
from hm3rl.paths.families import family_of, layer_prefix

STREAM, MLP, QUERIES, KEYS, VALUES, READ = "stream", "mlp", "queries", "keys", "values", "read"
"""Kinds of axes; READ is what the output projection reads, a value channel for each query head."""

OUTSIDE: Mapping[str, tuple[str | None, ...]] = {
    "embed_tokens.weight": (None, STREAM),
    "norm.weight": (STREAM,),
    "lm_head.weight": (None, STREAM),
}
"""Axes of the tensors outside the layers, by the end of their names; None: the order is fixed."""

INSIDE: Mapping[str, tuple[str | None, ...]] = {
    "input_layernorm.weight": (STREAM,),
    "post_attention_layernorm.weight": (STREAM,),
    "pre_feedforward_layernorm.weight": (STREAM,),
    "post_feedforward_layernorm.weight": (STREAM,),
    "self_attn.q_proj.weight": (QUERIES, STREAM),
    "self_attn.q_proj.bias": (QUERIES,),
    "self_attn.q_norm.weight": (None,),
    "self_attn.k_proj.weight": (KEYS, STREAM),
    "self_attn.k_proj.bias": (KEYS,),
    "self_attn.k_norm.weight": (None,),
    "self_attn.v_proj.weight": (VALUES, STREAM),
    "self_attn.v_proj.bias": (VALUES,),
    "self_attn.o_proj.weight": (STREAM, READ),
    "self_attn.o_proj.bias": (STREAM,),
    "mlp.gate_proj.weight": (MLP, STREAM),
    "mlp.gate_proj.bias": (MLP,),
    "mlp.up_proj.weight": (MLP, STREAM),
    "mlp.up_proj.bias": (MLP,),
    "mlp.down_proj.weight": (STREAM, MLP),
    "mlp.down_proj.bias": (STREAM,),
}
"""The same inside a layer."""

Orders = Mapping[str, torch.Tensor]
"""By axis, which unit of the old model stands at each place of the new one: a permutation, int64
on the CPU."""


@dataclass(frozen=True)
class Heads:
    """The heads of an attention.

    Attributes:
        groups: KV heads.
        queries: Query heads of each.
        size: Channels of a head.
    """

    groups: int
    queries: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The axes of units of an architecture.

    Attributes:
        tensors: Axes by tensor name, None where the order is fixed. The residual stream's axis is
            called `STREAM`, those of layer 3 `3.mlp`, `3.queries` and so on.
        sizes: Units by axis.
        heads: Of every layer.
        layers: Number of layers.
    """

    tensors: Mapping[str, tuple[str | None, ...]]
    sizes: Mapping[str, int]
    heads: Heads
    layers: int

    @property
    def identity(self) -> dict[str, torch.Tensor]:
        """The orders that leave a model as it is."""
        return {axis: torch.arange(size) for axis, size in self.sizes.items()}


def axis_of(layer: int, kind: str) -> str:
    """Name a layer's axis of a kind."""
    return kind if kind == STREAM else f"{layer}.{kind}"


def kind_of(axis: str) -> str:
    """Return the kind of an axis."""
    return axis.rpartition(".")[2]


def layout_of(model: PreTrainedModel) -> Layout:
    """Find the axes of units of a model.

    Args:
        model: With weights, or its skeleton.

    Raises:
        InputError: It holds a tensor of which it is not known what may be permuted.
    """
    config, inner = model.config, family_of(model.config).inner
    prefixes = {layer_prefix(config, n): n for n in range(config.num_hidden_layers)}
    heads = _heads(config)
    tensors: dict[str, tuple[str | None, ...]] = {}
    sizes: dict[str, int] = {}
    for name, tensor in named_tensors(model).items():
        prefix = next((one for one in prefixes if name.startswith(one)), None)
        if prefix is None:
            kinds = OUTSIDE.get(name.removeprefix(f"{inner}."))
            axes = kinds
        else:
            kinds = INSIDE.get(name.removeprefix(prefix))
            axes = kinds and tuple(k and axis_of(prefixes[prefix], k) for k in kinds)
        # A norm over all heads together, as some architectures have it, would bind their order.
        fits = kinds != (None,) or tuple(tensor.shape) == (heads.size,)
        if axes is None or not fits or len(axes) != tensor.ndim:
            raise _unknown(config, name)
        tensors[name] = axes
        for axis, size in zip(axes, tensor.shape, strict=True):
            if axis is not None and sizes.setdefault(axis, size) != size:
                raise _unknown(config, name)
    return Layout(
        MappingProxyType(tensors), MappingProxyType(sizes), heads, config.num_hidden_layers
    )


def _heads(config: PretrainedConfig) -> Heads:
    queries = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or queries)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // queries)
    return Heads(groups, queries // groups, size)


def _unknown(config: PretrainedConfig, name: str) -> InputError:
    return InputError(
        f"units of model type {config.model_type!r} cannot be matched: which of them {name} lets "
        "be permuted is not known",
        "match models whose layers have the tensors that Llama's have: q_proj, k_proj, v_proj and "
        "o_proj, gate_proj, up_proj and down_proj, and norms without biases",
    )


def reordered(
    tensor: torch.Tensor, axes: Sequence[str | None], orders: Orders, but: str | None = None
) -> torch.Tensor:
    """Reorder a tensor along its axes of units.

    Args:
        tensor: Any tensor.
        axes: Its axes.
        orders: Orders by axis.
        but: An axis to be left as it is.

    Returns:
        A copy, or the tensor itself if nothing is reordered.
    """
    for dimension, axis in enumerate(axes):
        if axis is not None and axis != but:
            tensor = tensor.index_select(dimension, orders[axis].to(tensor.device))
    return tensor


@torch.no_grad()
def permuted(model: PreTrainedModel, layout: Layout, orders: Orders) -> PreTrainedModel:
    """Build a model with its units in another order, which computes the same.

    Args:
        model: It is not changed.
        layout: Its axes.
        orders: For every axis.

    Returns:
        A model over tensors of its own; tied ones stay tied.
    """
    fresh = {
        id(tensor): reordered(tensor, layout.tensors[name], orders)
        for name, tensor in named_tensors(model).items()
    }
    return deep_shallow_copy(model, fresh)


def orders_hash(orders: Orders) -> str:
    """Hash orders, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for axis in sorted(orders):
        digest.update(f"\0{axis}\0".encode())
        digest.update(tensor_bytes(orders[axis]))
    return digest.hexdigest()

"""View layers: decoder layers at a new place, over the weights of their source.

Only what says *where* the layer stands is rewritten: `layer_idx`, which addresses the KV cache, and
the configuration, which selects the attention implementation. What says *what* the layer is stays
the source's. A layer from a model with other rotary embeddings or another sliding window than its
host, and a layer whose input is aligned, see to that themselves before they run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from hm3rl.models.shallow import shallow_copy
from hm3rl.paths.families import Family
from hm3rl.paths.layer_path import LayerRef

Alignment = Callable[[torch.Tensor], torch.Tensor]
"""Maps hidden states, shape (B, T, d), to aligned ones; what `view.alignment` holds."""


@dataclass(frozen=True)
class Rotary:
    """Rotary embedding of a layer's own source.

    Attributes:
        module: The source's module.
        layer_type: Kind of layer it is asked for, where the module knows several.
    """

    module: nn.Module
    layer_type: str | None

    def __call__(self, hidden: torch.Tensor, positions: torch.Tensor) -> Any:
        """Return (cos, sin) for positions of shape (B, T)."""
        if self.layer_type is None:
            return self.module(hidden, positions)
        return self.module(hidden, positions, self.layer_type)


@dataclass(frozen=True)
class ViewPlace:
    """Where a view stands, and what it must see to itself.

    Attributes:
        source: Member and layer.
        depth: Depth in the stitched model.
        config: Configuration its attention reads.
        rotary: Its own rotary embedding, where the host's is another.
        window: Its own sliding window, where the host's masks have none.
    """

    source: LayerRef
    depth: int
    config: PretrainedConfig
    rotary: Rotary | None = None
    window: int | None = None


def view_layer(
    layer: nn.Module, place: ViewPlace, alignment: Alignment | None, family: Family
) -> nn.Module:
    """Make a view of a source's layer.

    Args:
        layer: The source's layer; it is not changed.
        place: Where the view stands.
        alignment: Applied to its input, or None.
        family: Attribute names of its architecture.

    Returns:
        A module of the layer's class (or a subclass) that shares its weights. `view.source` is
        (member, layer); `view.alignment` is what is applied to its input, or None. The two and
        the weights determine what it computes.
    """
    view = shallow_copy(layer)
    attention = shallow_copy(getattr(layer, family.attention))
    # Past `nn.Module.__setattr__`, which is slow and looks for parameters.
    attention.__dict__.update(layer_idx=place.depth, config=place.config)
    view._modules[family.attention] = attention
    for name, value in (("layer_idx", place.depth), ("config", place.config)):
        if name in view.__dict__:
            view.__dict__[name] = value
    view.__dict__.update(source=place.source, alignment=alignment)
    if place.rotary or place.window or alignment is not None:
        view.__dict__.update(rotary=place.rotary, window=place.window, depth=place.depth)
        view.__class__ = _adapted(type(layer))  # type: ignore[arg-type]
    return view


def unaligned(view: nn.Module) -> nn.Module:
    """Copy a view without its alignment; one that has none is returned as it is."""
    if view.alignment is None:
        return view
    plain = shallow_copy(view)
    plain.__dict__["alignment"] = None
    if plain.rotary is None and plain.window is None:
        plain.__class__ = type(view).__bases__[1]
    return plain


class _Adapted(nn.Module):
    """What a view does before it runs as its source does."""

    depth: int
    rotary: Rotary | None
    window: int | None
    alignment: Alignment | None

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.rotary is not None:
            kwargs["position_embeddings"] = self.rotary(hidden_states, kwargs["position_ids"])
        if self.window is not None:
            cache = kwargs.get("past_key_values")
            past = cache.get_seq_length(self.depth) if cache is not None else 0
            kwargs["attention_mask"] = narrowed(
                kwargs.get("attention_mask"), hidden_states, past, self.window
            )
        if self.alignment is not None:
            hidden_states = self.alignment(hidden_states)
        return super().forward(hidden_states, *args, **kwargs)


@functools.cache
def _adapted(kind: type[nn.Module]) -> type[nn.Module]:
    # A subclass, not a wrapper: names in the state dict stay, and so does `isinstance`.
    return type(f"Adapted{kind.__name__}", (_Adapted, kind), {})


def narrowed(
    mask: torch.Tensor | None, hidden: torch.Tensor, past: int, window: int
) -> torch.Tensor | None:
    """Restrict a mask of full causal attention to a sliding window.

    Args:
        mask: Shape (B, 1, T, S): bool, True where attended, or added to the scores; None for
            plain causal attention.
        hidden: Input of the layer, shape (B, T, d).
        past: Tokens in the cache, used where there is no mask; else S - T counts.
        window: A token sees itself and `window - 1` tokens before it, columns counted.

    Returns:
        The mask of the same kind; None stays None where no token is that far away.
    """
    queries = hidden.shape[1]
    columns = past + queries if mask is None else mask.shape[-1]
    if columns <= window:
        return mask
    row = torch.arange(columns - queries, columns, device=hidden.device)[:, None]
    column = torch.arange(columns, device=hidden.device)
    near = column > row - window
    if mask is None:
        return (near & (column <= row))[None, None]
    if mask.dtype == torch.bool:
        return mask & near
    return mask.masked_fill(~near, torch.finfo(mask.dtype).min)

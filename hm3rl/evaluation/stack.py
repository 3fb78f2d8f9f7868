"""A candidate's model taken apart, so that its stem, its layers and its head run one by one.

What a family's decoder does around its layers (embedding, positions, one mask per kind of layer) is
not written down here a second time: an ordinary forward in which the layers only listen tells what
each of them is called with (trap T29). So stacks of all families run through the same code.

Names say what may be shared: stacks of equal `stem` and equal leading `keys` compute the same
states from the same items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import Cache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from hm3rl.models.shallow import shallow_copy
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import PER_LAYER_LISTS, decoder, decoder_layers, family_of

Kind = tuple[Hashable, ...]
"""What the configuration says of one layer (its type, ...); layers of one kind are called alike."""


class States(NamedTuple):
    """Keys and values of one layer, each of shape (B, heads, columns, head size)."""

    keys: torch.Tensor
    values: torch.Tensor


class Kept(Cache):
    """Takes down the keys and values of the one layer call it is given to."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: States | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the states and hand them back as they are."""
        self.states = States(key_states, value_states)
        return key_states, value_states


@dataclass(frozen=True)
class Call:
    """What a decoder calls a layer with, besides the hidden states.

    Attributes:
        args: Positional arguments after the hidden states.
        kwargs: Keyword arguments.
        cache: The cache among them, which each run replaces by one of its own; None if there is
            none.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    cache: Cache | None

    def run(self, layer: nn.Module, hidden: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        """Call a layer on hidden states of shape (B, columns, width)."""

        def given(value: Any) -> Any:
            return cache if self.cache is not None and value is self.cache else value

        args = [given(value) for value in self.args]
        kwargs = {name: given(value) for name, value in self.kwargs.items()}
        return layer(hidden, *args, **kwargs)

    def map(self, batch: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """Change every tensor with a row for each of `batch` rows."""

        def changed(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == batch:
                return change(value)
            if isinstance(value, tuple | list):
                return type(value)(changed(part) for part in value)
            return value

        args = tuple(changed(value) for value in self.args)
        kwargs = {name: changed(value) for name, value in self.kwargs.items()}
        return Call(args, kwargs, self.cache)


class _Listener(nn.Module):
    """Stands in a layer's place, takes down what it is called with and changes nothing."""

    def __init__(self, cache: Cache | None) -> None:
        super().__init__()
        self.cache = cache
        self.captured: tuple[torch.Tensor, Call] | None = None

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Listen."""
        self.captured = hidden, Call(args, kwargs, self.cache)
        return hidden


class _Given(nn.Module):
    """Stands in the decoder's place and puts out hidden states computed elsewhere."""

    hidden: torch.Tensor

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Put them out."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)


class Stack:
    """One model as stem, layers and head.

    Args:
        model: Any causal language model of a supported family; never changed.
        stem: Name of the embedding and of what goes with it.
        keys: Name of the layer at each depth.
        head: Name of final norm and head.
        call_signature: Name of the way the decoder calls its layers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stem: Hashable,
        keys: Sequence[Hashable],
        head: Hashable,
        call_signature: Hashable,
    ) -> None:
        self.model = model
        self.stem = stem
        self.keys = tuple(keys)
        self.head = head
        self.call_signature = call_signature
        self.layers = list(decoder_layers(model))
        if len(self.layers) != len(self.keys):
            raise ValueError(f"{len(self.keys)} names for {len(self.layers)} layers")

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> Stack:
        """Take a model apart that shares nothing with any other."""
        own = object()
        return cls(model, own, [(own, n) for n in range(len(decoder_layers(model)))], own, own)

    @classmethod
    def of_candidate(cls, candidate: Candidate, model: PreTrainedModel) -> Stack:
        """Take an assembled candidate apart, with names that hold within one set of members."""
        path, way = candidate.path, call_signature(model.config)
        kinds = layer_kinds(model.config)
        keys: list[Hashable] = [
            # An alignment is determined by everything up to its layer.
            (candidate.alignment, path.stem, path.refs[: depth + 1], kinds[: depth + 1])
            if getattr(view, "alignment", None) is not None
            # Whether a layer narrows masks itself depends on the windows of the whole path, and so
            # does the kind that the decoder takes it for.
            else (path.refs[depth], kinds[depth])
            for depth, view in enumerate(decoder_layers(model))
        ]
        return cls(model, (path.stem, way), keys, (path.stem, candidate.head), way)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""
        return self.model.dtype

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Kind of the layer at each depth."""
        return layer_kinds(self.model.config)

    def listen(
        self, cache: Cache | None = None, **inputs: Any
    ) -> tuple[torch.Tensor, dict[Kind, Call]]:
        """Embed tokens and find out what the layers are called with.

        Args:
            cache: Cache to be mentioned in the calls; it says how many columns came before.
            **inputs: What the decoder takes: `input_ids`, `position_ids`, `attention_mask`.

        Returns:
            Input of the first layer, shape (B, columns, width), and the call of each kind of layer.
        """
        family = family_of(self.model.config)
        inner = shallow_copy(decoder(self.model))
        listeners = [_Listener(cache) for _ in self.layers]
        inner._modules[family.layers] = nn.ModuleList(listeners).eval()
        inner._modules[family.norm] = nn.Identity()
        inner(past_key_values=cache, use_cache=cache is not None, **inputs)
        captured = [one.captured for one in listeners]
        assert captured[0] is not None
        calls = {k: h[1] for k, h in zip(self.kinds, captured, strict=True) if h is not None}
        return captured[0][0], calls

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply final norm and head.

        Args:
            hidden: Output of the last layer, shape (B, columns, width).

        Returns:
            Logits in float32, shape (B, columns, vocabulary).
        """
        self._given.hidden = self._norm(hidden)
        try:
            return self._headed(input_ids=None, use_cache=False).logits.float()
        finally:
            del self._given.hidden  # or it would live as long as the stack

    @cached_property
    def _norm(self) -> nn.Module:
        return getattr(decoder(self.model), family_of(self.model.config).norm)

    @cached_property
    def _given(self) -> _Given:
        return _Given().eval()

    @cached_property
    def _headed(self) -> PreTrainedModel:
        headed = shallow_copy(self.model)
        headed._modules[family_of(self.model.config).inner] = self._given
        return headed


def listen_to_all(
    stacks: Iterable[Stack], cache: Cache | None = None, **inputs: Any
) -> tuple[torch.Tensor, dict[Kind, Call]]:
    """Find out what the layers of several stacks of equal `call_signature` are called with.

    Returns:
        The first stack's embeddings, and the call of each kind of layer that any of them has.
    """
    embedded: torch.Tensor | None = None
    calls: dict[Kind, Call] = {}
    for stack in stacks:
        if embedded is None or not calls.keys() >= set(stack.kinds):
            hidden, captured = stack.listen(cache, **inputs)
            embedded = hidden if embedded is None else embedded
            calls = captured | calls
    assert embedded is not None
    return embedded, calls


def layer_kinds(config: PretrainedConfig) -> tuple[Kind, ...]:
    """Kind of the layer at each depth of a model."""
    lists = [v for name in PER_LAYER_LISTS if (v := getattr(config, name, None)) is not None]
    return tuple(tuple(v[depth] for v in lists) for depth in range(config.num_hidden_layers))


_NO_MATTER = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",  # all members of a pool have one; saving a model rewrites the entry
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "num_hidden_layers",
    "tie_word_embeddings",
    *PER_LAYER_LISTS,
)


def call_signature(config: PretrainedConfig) -> str:
    """Name the way in which a decoder calls its layers.

    Decoders of equal configurations, per-layer lists aside, hand the same positions and masks to
    layers of the same kind, whatever their weights.
    """
    return repr(sorted((k, repr(v)) for k, v in config.__dict__.items() if k not in _NO_MATTER))

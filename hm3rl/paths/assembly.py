"""Zero-copy assembly: an ordinary Hugging Face model whose layers are views of its sources.

One layer may stand at several depths at once, and layers of different architectures may follow each
other as long as they pass on hidden states of one size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.shallow import shallow_copy
from hm3rl.paths.alignment import ScalarMap
from hm3rl.paths.alignment_kind import NO_ALIGNMENT, read_scales
from hm3rl.paths.candidate import STEM_HEAD, Candidate
from hm3rl.paths.families import (
    decoder,
    family_of,
    layer_rope,
    layer_window,
    path_config,
    without_windows,
)
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.paths.views import Alignment, Rotary, ViewPlace, view_layer

WINDOWED = ("sdpa", "eager")
"""Attention implementations whose masks a layer can narrow to its own window."""


def assemble(candidate: Candidate, members: MemberSet) -> PreTrainedModel:
    """Build the candidate's model without copying weights.

    Args:
        candidate: What to build; its merged members are added to `members` if they are new.
        members: The sources and merged members.

    Returns:
        A model that behaves like any other (forward, generate with and without cache). It shares
        its weights with the members: use it, do not train it. Its configuration is for running it;
        see `check_expressible` for whether a checkpoint can have it.

    Raises:
        InputError: A member or layer does not exist, two layers cannot follow each other, or the
            members have not the calibration batch that the candidate is aligned on.
        ArithmeticError: The states to align are zero, NaN or infinite.
    """
    members.admit(candidate)
    check_layers(candidate, members)
    path = candidate.path
    alignments: Sequence[Alignment | None] = [None] * path.length
    factors = read_scales(candidate.alignment)
    if factors:
        given = dict(zip(path.stitch_points, factors, strict=True))
        alignments = [
            ScalarMap(f"given {given[depth]:g}", given[depth]) if depth in given else None
            for depth in range(path.length)
        ]
    elif candidate.alignment != NO_ALIGNMENT:
        alignments = members.aligner(candidate.alignment).maps(
            candidate.alignment, path, members, partial(stitch, members=members)
        )
    model = stitch(path, alignments, members)
    if candidate.head != STEM_HEAD:
        _replace_head(model, members.model(candidate.head))
    return model


def stitch(
    path: LayerPath, alignments: Sequence[Alignment | None], members: MemberSet
) -> PreTrainedModel:
    """Build a path's model, given what is applied to the input of each layer.

    Args:
        path: A path that `check_layers` accepted.
        alignments: One entry a layer.
        members: The sources and merged members.

    Returns:
        The model, with its stem's head.
    """
    host = members.stem(path.stem)
    family = family_of(host.config)
    config, places = _places(path, host, members)
    views = [
        view_layer(members.layer(*place.source), place, alignment, family)
        for place, alignment in zip(places, alignments, strict=True)
    ]
    inner = shallow_copy(decoder(host))
    inner.config = config
    stack = nn.ModuleList()
    stack._modules.update((str(depth), view) for depth, view in enumerate(views))
    # Views are in evaluation mode as their sources are; `eval()` would walk all of them again.
    stack.training = False
    inner._modules[family.layers] = stack
    if hasattr(inner, "has_sliding_layers"):
        inner.has_sliding_layers = "sliding_attention" in config.layer_types
    _complete_rotary(inner, config)
    model = shallow_copy(host)
    model.config = config
    model._modules[family.inner] = inner
    return model


def _places(
    path: LayerPath, host: PreTrainedModel, members: MemberSet
) -> tuple[PretrainedConfig, list[ViewPlace]]:
    """Decide the configuration of the stitched model and what each layer must see to itself."""
    stem, refs = path.stem, path.refs
    configs = {name: members.config(name) for name in path.members}
    config = path_config(host.config, [(configs[m], layer) for m, layer in refs])
    if all(members.alike(stem, member) for member in configs):
        return config, [ViewPlace(ref, depth, config) for depth, ref in enumerate(refs)]
    if any(getattr(configs[m], "attn_logit_softcapping", None) for m, _ in refs):
        # Fused attention has no soft-capping, and masks are made for one kind of attention.
        config._attn_implementation = "eager"
    windows = [layer_window(configs[m], layer) for m, layer in refs]
    plain = windows == [layer_window(config, depth) for depth in range(len(refs))]
    if not plain:
        config = without_windows(config)
        _check_windows(config)
    own = {name: _own_config(configs[name], config) for name in configs}
    return config, [
        ViewPlace(
            ref,
            depth,
            own[ref.member],
            _own_rotary(members.stem(ref.member), ref.layer, config, depth),
            None if plain else windows[depth],
        )
        for depth, ref in enumerate(refs)
    ]


def _own_config(source: PretrainedConfig, config: PretrainedConfig) -> PretrainedConfig:
    """Copy a source's configuration, with the host's attention implementation."""
    own = copy.copy(source)
    own._attn_implementation = config._attn_implementation
    return own


def _own_rotary(
    source: PreTrainedModel, layer: int, config: PretrainedConfig, depth: int
) -> Rotary | None:
    """The source's rotary embedding, or None where the host's is the same at this depth."""
    if layer_rope(source.config, layer) == layer_rope(config, depth):
        return None
    module = decoder(source).rotary_emb
    several = hasattr(module, "layer_types")
    return Rotary(module, source.config.layer_types[layer] if several else None)


def _complete_rotary(inner: nn.Module, config: PretrainedConfig) -> None:
    """Rebuild a rotary embedding that does not know every kind of layer on the path."""
    rotary = inner._modules.get("rotary_emb")
    known = getattr(rotary, "layer_types", None)
    if rotary is not None and known is not None and not set(config.layer_types) <= set(known):
        device = next(inner.parameters()).device
        inner._modules["rotary_emb"] = type(rotary)(config).to(device)


def _check_windows(config: PretrainedConfig) -> None:
    if config._attn_implementation not in WINDOWED:
        raise InputError(
            "the layers of this path have different sliding windows, which attention "
            f"{config._attn_implementation!r} cannot mix",
            f"load the sources with attention {' or '.join(WINDOWED)}",
        )


def check_layers(candidate: Candidate, members: MemberSet) -> None:
    """Refuse paths that do not exist in this set of members.

    Raises:
        InputError: Names the member, the layer or the two neighbours.
    """
    for name in candidate.members:
        members.check(name)
    depths = {name: members.num_layers(name) for name in candidate.path.members}
    follows: set[tuple[str, str]] = {(name, name) for name in depths}
    previous = candidate.path.stem
    for member, layer in candidate.path.refs:
        if layer >= depths[member]:
            raise InputError(
                f"the path {candidate.path} uses layer {layer} of {member}, "
                f"which has {depths[member]} layers",
                f"use layers 0 to {depths[member] - 1}",
            )
        if (previous, member) not in follows:
            if not members.can_follow(previous, member):
                raise InputError(
                    f"{member} ({members.describe(member)}) cannot follow "
                    f"{previous} ({members.describe(previous)})",
                    "stitch only members of equal hidden size, GPT-2 and GPT-NeoX only with their "
                    "like",
                )
            follows.add((previous, member))
        previous = member


def _replace_head(model: PreTrainedModel, lender: PreTrainedModel) -> None:
    """Give `model` the output head of another member; a tied head is untied by that."""
    for name, module in lender._modules.items():
        if module is lender.get_output_embeddings():
            model._modules[name] = module
    model.config.tie_word_embeddings = False

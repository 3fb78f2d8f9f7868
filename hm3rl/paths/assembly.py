"""Zero-copy assembly: an ordinary Hugging Face model whose layers are views of its sources.

A view layer is a new module object over the source's parameters. Only what says *where* the layer
stands is rewritten: `layer_idx`, which addresses the KV cache, and the configuration,
which selects the attention implementation. What says *what* the layer is stays the
source's: layer type, sliding window, scaling. So one layer may stand at several depths at once.
"""

from __future__ import annotations

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.shallow import shallow_copy
from hm3rl.paths.candidate import STEM_HEAD, Candidate
from hm3rl.paths.families import Family, decoder, decoder_layers, family_of, path_config
from hm3rl.paths.members import MemberSet


def assemble(candidate: Candidate, members: MemberSet) -> PreTrainedModel:
    """Build the candidate's model without copying weights.

    Args:
        candidate: What to build; its merged members are added to `members` if they are new.
        members: The sources and merged members.

    Returns:
        A model that behaves like any other (forward, generate with and without cache). It shares
        its weights with the members: use it, do not train it.

    Raises:
        InputError: A member or layer does not exist, or two layers cannot follow each other.
    """
    for recipe in candidate.recipes:
        members.add(recipe)
    check_layers(candidate, members)
    path = candidate.path
    models = {name: members.model(name) for name in candidate.members}
    host = models[path.stem]
    family = family_of(host.config)
    config = path_config(host.config, [(models[m].config, layer) for m, layer in path.refs])
    layers = {name: decoder_layers(model) for name, model in models.items()}
    views = [
        _view(layers[ref.member][ref.layer], depth, config, family)
        for depth, ref in enumerate(path.refs)
    ]
    inner = shallow_copy(decoder(host))
    inner.config = config
    inner._modules[family.layers] = nn.ModuleList(views).eval()
    if hasattr(inner, "has_sliding_layers"):
        inner.has_sliding_layers = "sliding_attention" in config.layer_types
    model = shallow_copy(host)
    model.config = config
    model._modules[family.inner] = inner
    if candidate.head != STEM_HEAD:
        _replace_head(model, models[candidate.head])
    return model


def check_layers(candidate: Candidate, members: MemberSet) -> None:
    """Refuse paths that do not exist in this set of members.

    Raises:
        InputError: Names the member, the layer or the two neighbours.
    """
    for name in candidate.members:
        members.check(name)
    previous = candidate.path.stem
    for member, layer in candidate.path.refs:
        if layer >= members.num_layers(member):
            raise InputError(
                f"the path {candidate.path} uses layer {layer} of {member}, "
                f"which has {members.num_layers(member)} layers",
                f"use layers 0 to {members.num_layers(member) - 1}",
            )
        if not members.can_follow(previous, member):
            raise InputError(
                f"{member} (hidden size {members.hidden_size(member)}) cannot follow {previous} "
                f"(hidden size {members.hidden_size(previous)})",
                "stitch only members of equal hidden size",
            )
        previous = member


def _view(layer: nn.Module, depth: int, config: PretrainedConfig, family: Family) -> nn.Module:
    view = shallow_copy(layer)
    attention = shallow_copy(getattr(layer, family.attention))
    attention.layer_idx = depth
    attention.config = config
    view._modules[family.attention] = attention
    for name, value in (("layer_idx", depth), ("config", config)):
        if name in view.__dict__:
            view.__dict__[name] = value
    return view


def _replace_head(model: PreTrainedModel, lender: PreTrainedModel) -> None:
    """Give `model` the output head of another member; a tied head is untied by that."""
    for name, module in lender._modules.items():
        if module is lender.get_output_embeddings():
            model._modules[name] = module
    model.config.tie_word_embeddings = False

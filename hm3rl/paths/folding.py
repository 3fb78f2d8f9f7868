"""Folding scalar alignments into weights, so that a plain checkpoint computes the aligned path.

With factors s_j in front of layers j, the aligned residual stream at depth t is c_t = prod_{j<=t}
s_j times one that is never scaled, if every branch adds 1/c_t of what it did: norms take the scale
out of what the branches read. So the last linear map of every branch is divided by c_t, weight and
bias; where a norm follows it (Gemma 2 and 3), that norm's scale 1 + w is. Embeddings, the norms
before the branches, the final norm and the head stay. Exact up to the norms' eps, which weighs more
the smaller the stream is: in front of layer 0 too much, so that is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.shallow import deep_shallow_copy, shallow_copy
from hm3rl.paths.alignment import ScalarMap
from hm3rl.paths.alignment_kind import NO_ALIGNMENT, SCALES, read_scales, split_alignment
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import Family, decoder, decoder_layers, family_of
from hm3rl.paths.views import unaligned


@dataclass(frozen=True)
class Folded:
    """A model without alignment that computes what an aligned one does.

    Attributes:
        model: It shares all weights with the aligned model but those that were divided.
        factors: c_t of every layer.
    """

    model: PreTrainedModel
    factors: tuple[float, ...]


def check_foldable(candidate: Candidate) -> None:
    """Refuse alignments that no plain checkpoint can have.

    Raises:
        InputError: The alignment is not scalar, or stands in front of layer 0.
    """
    kind, _ = split_alignment(candidate.alignment)
    if kind == NO_ALIGNMENT:
        return
    if kind not in ("scalar", SCALES):
        raise InputError(
            f"the path {candidate.path} has {kind} alignments, which do not fold into a plain "
            "checkpoint",
            "it can be evaluated in process; search with paths.alignment=scalar to export",
        )
    if candidate.path.stitch_points[0] == 0 and read_scales(candidate.alignment)[:1] != (1.0,):
        raise InputError(
            f"the path {candidate.path} is aligned in front of layer 0, because its stem and its "
            "first layer are of different models; folded there the error is too large",
            "it can be evaluated in process; export a path that starts with its stem's layer 0",
        )


@torch.no_grad()
def fold_scalar(model: PreTrainedModel) -> Folded:
    """Fold the alignments of an assembled model.

    Args:
        model: Of a candidate that `check_foldable` accepts; it is not changed.

    Returns:
        The folded model.
    """
    family = family_of(model.config)
    factor, factors, layers = 1.0, [], []
    for view in decoder_layers(model):
        alignment: Any = view.alignment
        if alignment is not None:
            assert isinstance(alignment, ScalarMap)
            factor *= alignment.factor
        factors.append(factor)
        layers.append(unaligned(_divided(view, factor, family)))
    inner = shallow_copy(decoder(model))
    inner._modules[family.layers] = nn.ModuleList(layers).eval()
    folded = shallow_copy(model)
    folded._modules[family.inner] = inner
    return Folded(folded, tuple(factors))


def _divided(view: nn.Module, factor: float, family: Family) -> nn.Module:
    """Copy a layer whose branches add 1/factor of what they did; cast once to its precision."""
    if factor == 1.0:
        return view
    tensors: dict[int, torch.Tensor] = {}
    for name in family.branch_ends:
        for parameter in view.get_submodule(name).parameters(recurse=False):
            tensors[id(parameter)] = (parameter.float() / factor).to(parameter.dtype)
    for name in family.branch_norms:
        weight = view.get_submodule(name).get_parameter("weight")
        tensors[id(weight)] = ((1 + weight.float()) / factor - 1).to(weight.dtype)
    return deep_shallow_copy(view, tensors)

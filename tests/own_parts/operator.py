"""An operator that uses density and seeded masks: the median of randomly thinned task vectors."""

from __future__ import annotations

import torch

from hm3rl.merging.operators import TensorMerge
from hm3rl.merging.traits import OperatorTraits
from hm3rl.registry import register


@register(
    "operator",
    "thin_median",
    traits=OperatorTraits(density=True, random=True, weighted=False),
)
def thin_median(t: TensorMerge) -> torch.Tensor:
    """theta_base + scale * median_k of what is left of delta_k, each entry with its density."""
    for thin, delta in zip(t.survival, t.deltas, strict=True):
        thin(delta)
    return t.base + t.scale * t.deltas.median(dim=0).values

"""Merge operators: small functions over the task vectors of one tensor.

All take the base tensor and a stack of task vectors delta_k = theta_k - theta_base in fp32 and
return the merged tensor in fp32; the caller casts once. What the papers leave open or
what implementations do differently is stated at each function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorMerge:
    """The input of an operator, for one tensor.

    Attributes:
        base: theta_base, fp32, any shape.
        deltas: Task vectors of the experts that have a weight, fp32, shape (K, *base.shape).
        weights: Their weights, fp32, shape (K,).
        thresholds: Smallest magnitude that survives trimming, shape (K,); operators that trim.
        drop_masks: Entries that survive dropping, bool, shape (K, *base.shape); DARE.
        densities: Share of kept entries, fp32, shape (K,).
        scale: Factor on the merged task vector.
        normalise: See `MergeRecipe.normalise`.
    """

    base: torch.Tensor
    deltas: torch.Tensor
    weights: torch.Tensor
    thresholds: torch.Tensor | None
    drop_masks: torch.Tensor | None
    densities: torch.Tensor
    scale: float
    normalise: bool

    def per_expert(self, values: torch.Tensor) -> torch.Tensor:
        """Reshape (K,) to (K, 1, ..., 1), to broadcast against `deltas`."""
        return values.reshape(-1, *([1] * self.base.dim()))


Operator = Callable[[TensorMerge], torch.Tensor]


def linear(t: TensorMerge) -> torch.Tensor:
    """Weighted average of the experts (Wortsman et al., Model soups, 2022), the base unused.

    sum_k w_k theta_k, divided by sum_k w_k if normalised. Computed as c theta_base + sum_k w_k
    delta_k with c = sum_k w_k, which keeps small differences exact.
    """
    total = t.weights.sum()
    if t.normalise:
        return t.base + _weighted_sum(t, t.deltas) / total
    return t.base * total + _weighted_sum(t, t.deltas)


COLINEAR = 0.9995
"""Cosine above which slerp interpolates linearly; the usual constant."""


def slerp(t: TensorMerge) -> torch.Tensor:
    """Spherical interpolation of two experts (Shoemake, 1985).

    Variant: the whole tensor is one vector, the fraction is w_2 / (w_1 + w_2) with experts in
    order of name (0 is the first expert), the angle is taken between the *weights*, not the task
    vectors, and nearly colinear tensors, which fine-tuned siblings usually are, fall back to
    linear interpolation.
    """
    first, second = t.base + t.deltas[0], t.base + t.deltas[1]
    fraction = (t.weights[1] / t.weights.sum()).item()
    norms = first.norm() * second.norm()
    cosine = (first * second).sum() / norms if norms > 0 else torch.ones(())
    if cosine.abs() > COLINEAR:
        return torch.lerp(first, second, fraction)
    angle = torch.arccos(cosine)
    near, far = torch.sin((1 - fraction) * angle), torch.sin(fraction * angle)
    return (near * first + far * second) / torch.sin(angle)


def task_arithmetic(t: TensorMerge) -> torch.Tensor:
    """theta_base + scale * sum_k w_k delta_k (Ilharco et al., 2023, arXiv 2212.04089)."""
    total = t.weights.sum() if t.normalise else 1.0
    return t.base + t.scale / total * _weighted_sum(t, t.deltas)


def ties(t: TensorMerge) -> torch.Tensor:
    """TIES: trim, elect a sign per entry, merge those that agree (Yadav et al., arXiv 2306.01708).

    Variant: trimming is per tensor and keeps k = max(1, floor(density * n)) entries of largest
    magnitude, together with all that equal the k-th; the sign elected is that of the *weighted*
    sum; agreeing entries are summed with their weights and, if normalised, divided by the sum of
    the agreeing weights (mergekit's rule; the paper's unweighted mean at equal weights).
    """
    return t.base + t.scale * _elect_and_merge(t, _trimmed(t), t.weights, t.normalise)


def dare_linear(t: TensorMerge) -> torch.Tensor:
    """DARE: drop entries at random, rescale by 1 / density (Yu et al., arXiv 2311.03099), then add.

    Variant: the rescaled task vectors are combined as in task arithmetic, so the expectation of
    the result over the masks is task arithmetic itself.
    """
    total = t.weights.sum() if t.normalise else 1.0
    rescaled = t.weights / t.densities
    return t.base + t.scale / total * torch.tensordot(rescaled, _dropped(t), dims=1)


def dare_ties(t: TensorMerge) -> torch.Tensor:
    """DARE's dropping and rescaling, then TIES's sign election and merge, without trimming."""
    return t.base + t.scale * _elect_and_merge(t, _dropped(t), t.weights / t.densities, t.normalise)


def hm3_eq5(t: TensorMerge) -> torch.Tensor:
    """HM3's equation (5) taken literally: theta_base + sum_k lambda_k M_k * delta_k.

    M_k keeps what DARE's random mask keeps and agrees with the elected sign; neither DARE's
    1 / density nor TIES's division by the agreeing weight appear in the equation, so neither is
    applied here. `dare_ties` is the variant with both.
    """
    return t.base + _elect_and_merge(t, _dropped(t), t.weights, False)


OPERATORS: dict[str, Operator] = {
    "linear": linear,
    "slerp": slerp,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "hm3_eq5": hm3_eq5,
}

TRIMMING = frozenset({"ties"})
"""Operators that need `thresholds`."""

DROPPING = frozenset({"dare_linear", "dare_ties", "hm3_eq5"})
"""Operators that need `drop_masks`."""


def _weighted_sum(t: TensorMerge, deltas: torch.Tensor) -> torch.Tensor:
    return torch.tensordot(t.weights, deltas, dims=1)


def _trimmed(t: TensorMerge) -> torch.Tensor:
    assert t.thresholds is not None
    # hardshrink keeps |x| > threshold in one pass; the next smaller float makes that >=.
    below = torch.nextafter(t.thresholds, torch.full_like(t.thresholds, -1.0)).tolist()
    pairs = zip(t.deltas, below, strict=True)
    return torch.stack([torch.nn.functional.hardshrink(delta, cut) for delta, cut in pairs])


def _dropped(t: TensorMerge) -> torch.Tensor:
    assert t.drop_masks is not None
    return t.deltas * t.drop_masks


def _elect_and_merge(
    t: TensorMerge, deltas: torch.Tensor, factors: torch.Tensor, normalise: bool
) -> torch.Tensor:
    """Sum factor_k delta_k over the entries that agree with the sign of that sum.

    Args:
        t: The input.
        deltas: Trimmed or dropped task vectors, shape (K, *base.shape).
        factors: What each is multiplied by, shape (K,): its weight, rescaled for DARE.
        normalise: Whether to divide each entry by the sum of the agreeing weights.

    Returns:
        The merged task vector, shape base.shape.
    """
    towards = deltas * t.per_expert(factors)
    sign = towards.sum(dim=0).sign()
    towards *= sign  # positive where an entry agrees
    agreeing = torch.tensordot(t.weights, (towards > 0).to(towards.dtype), dims=1)
    merged = towards.clamp_(min=0).sum(dim=0) * sign
    if not normalise:
        return merged
    # Where no entry agrees the sum is zero and stays zero.
    return merged / torch.where(agreeing.abs() < 1e-8, 1.0, agreeing)

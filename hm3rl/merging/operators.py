"""Merge operators: small functions over the task vectors of one tensor, or of a piece of it.

All take a piece of the base tensor and the task vectors delta_k = theta_k - theta_base of the same
piece in fp32 and return the merged piece in fp32; the caller casts once. What an operator needs of
the whole tensor (thresholds, inner products) comes with the piece, so that a tensor can be merged
piece by piece. What the papers leave open or what implementations do differently is stated at each
function.

Results do not depend on the machine's kernels or threads, and those of `fused` are the same bit for
bit: every product and every sum is an operation of its own, rounded to fp32, the experts in their
order, starting at zero. So no BLAS, whose order of adding is its own, and no fused multiply-add,
as torch's `add` has with an alpha. It matters where weighted task vectors nearly cancel: the sign
that is elected there hangs on the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class TensorMerge:
    """The input of an operator.

    Attributes:
        base: theta_base, fp32, any shape.
        deltas: Task vectors of the experts that have a weight, fp32, shape (K, *base.shape).
            Operators may overwrite them.
        weights: Their weights, fp32, shape (K,).
        scale: Factor on the merged task vector.
        normalise: See `MergeRecipe.normalise`.
        densities: Share of kept entries, fp32, shape (K,); operators that drop.
        smallest: Smallest magnitude that survives, for each expert; operators that trim.
        largest: Largest magnitude that survives, for each expert; breadcrumbs.
        survival: For each expert what drops entries of its row of `deltas`, in place, and divides
            the others by their own probability of surviving if they have one (DELLA); operators
            that drop.
        gram: Inner products of theta_base, delta_1 .. delta_K over the *whole* tensor, float64,
            shape (K + 1, K + 1); operators on spheres and model stock.
    """

    base: torch.Tensor
    deltas: torch.Tensor
    weights: torch.Tensor
    scale: float = 1.0
    normalise: bool = False
    densities: torch.Tensor | None = None
    smallest: tuple[float, ...] | None = None
    largest: tuple[float, ...] | None = None
    survival: Sequence[Callable[[torch.Tensor], None]] = ()
    gram: torch.Tensor | None = None


Operator = Callable[[TensorMerge], torch.Tensor]


# Linear in the experts


def linear(t: TensorMerge) -> torch.Tensor:
    """Weighted average of the experts (Wortsman et al., Model soups, 2022), the base unused.

    sum_k w_k theta_k, divided by sum_k w_k if normalised. Computed as c theta_base + sum_k w_k
    delta_k with c = sum_k w_k, which keeps small differences exact.
    """
    merged = _combined(t.deltas, t.weights)
    if t.normalise:
        return merged.mul_(over_sum(1.0, t.weights)).add_(t.base)
    return merged.add_(t.base * t.weights.sum())


def task_arithmetic(t: TensorMerge) -> torch.Tensor:
    """theta_base + scale * sum_k w_k delta_k (Ilharco et al., 2023, arXiv 2212.04089)."""
    return _added(t, t.deltas, t.weights)


# On spheres


COLINEAR = 0.9995
"""Cosine above which slerp interpolates linearly; the usual constant."""


def slerp(t: TensorMerge) -> torch.Tensor:
    """Spherical interpolation of two experts (Shoemake, 1985).

    Variant: the whole tensor is one vector, the fraction is w_2 / (w_1 + w_2) with experts in
    order of name (0 is the first expert), the angle is taken between the *weights*, not the task
    vectors, and nearly colinear tensors, which fine-tuned siblings usually are, fall back to
    linear interpolation.
    """
    assert t.gram is not None
    inner = _expert_products(t.gram)
    fraction = t.weights[1].double() / t.weights.double().sum()
    norms = (inner[0, 0] * inner[1, 1]).sqrt()
    cosine = inner[0, 1] / norms if norms > 0 else torch.ones_like(norms)
    if cosine.abs() > COLINEAR:
        shares = torch.stack([1 - fraction, fraction])
    else:
        angle = torch.arccos(cosine)
        both = torch.stack([torch.sin((1 - fraction) * angle), torch.sin(fraction * angle)])
        shares = both / torch.sin(angle)
    return t.base * shares.sum().float() + _combined(t.deltas, shares.float())


def multi_slerp(t: TensorMerge) -> torch.Tensor:
    """Interpolation of the directions of K task vectors about the base (mergekit's `multislerp`).

    Variant: directions are those of the *task vectors*, whole tensors, weights divided by their
    sum. mergekit projects the directions u_k onto the tangent space at their normalised weighted
    mean m, averages there and maps back; as the projections of sum_k w_k u_k, which is parallel to
    m, cancel, the result is m itself, so it is computed as m. Length: the weighted mean of the
    task vectors' lengths. Opposite task vectors whose mean vanishes leave the base.
    """
    assert t.gram is not None
    inner = t.gram[1:, 1:]
    weights = t.weights.double() / t.weights.double().sum()
    lengths = inner.diagonal().sqrt()
    towards = weights / lengths.clamp(min=1e-8)
    mean = (towards @ inner @ towards).clamp(min=0).sqrt()
    if mean < 1e-8:
        return t.base.clone()
    return t.base + _combined(t.deltas, (towards * (weights @ lengths) / mean).float())


def karcher(t: TensorMerge) -> torch.Tensor:
    """Weighted Karcher mean of the experts' directions: slerp for any number of experts.

    Variant (mergekit's `karcher`, there with equal weights): directions are those of the *weights*,
    whole tensors; the point on the unit sphere with the least weighted sum of squared angles, found
    by following the mean of the logarithms (Afsari et al., 2013), at most `KARCHER_STEPS` times;
    its length is the weighted mean of the experts' lengths. All of it happens in the span of the
    experts, so the steps are taken on K coefficients.
    """
    assert t.gram is not None
    inner = _expert_products(t.gram)
    lengths = inner.diagonal().sqrt()
    weights = torch.where(lengths > 0, t.weights.double(), 0.0)
    if weights.sum() <= 0:
        return t.base.clone()
    weights = weights / weights.sum()
    units = inner / torch.outer(lengths, lengths).clamp(min=1e-300)
    point = weights / (weights @ units @ weights).clamp(min=1e-300).sqrt()
    for _ in range(KARCHER_STEPS):
        cosines = (units @ point).clamp(-1, 1)
        angles = torch.arccos(cosines)
        pull = weights * torch.where(angles > 1e-5, angles / torch.sin(angles), 1.0)
        tangent = pull - (pull @ cosines) * point
        step = (tangent @ units @ tangent).clamp(min=0).sqrt()
        if step < 1e-7:
            break
        point = torch.cos(step) * point + torch.sin(step) / step * tangent
        point = point / (point @ units @ point).sqrt()
    shares = (weights @ lengths) * point / lengths.clamp(min=1e-300)
    return t.base * shares.sum().float() + _combined(t.deltas, shares.float())


KARCHER_STEPS = 50
"""More than enough: fine-tuned siblings converge in two or three steps."""


def model_stock(t: TensorMerge) -> torch.Tensor:
    """Towards the experts' mean as far as their angles allow (Jang et al., arXiv 2403.19522).

    theta_base + r mean_k delta_k with r = K c / (1 + (K - 1) c) (the paper's section 4, for K
    models), c the cosine between task vectors. Variant: whole tensors, c averaged over all pairs,
    as in mergekit (filter_wise false). Where the denominator vanishes the base stays.
    """
    assert t.gram is not None
    inner, count = t.gram[1:, 1:], len(t.deltas)
    lengths = inner.diagonal().sqrt()
    cosines = inner / torch.outer(lengths, lengths).clamp(min=1e-6)
    first, second = torch.triu_indices(count, count, offset=1, device=inner.device)
    cosine = cosines[first, second].clamp(-1, 1).mean()
    denominator = 1 + (count - 1) * cosine
    if denominator.abs() < 1e-6:
        return t.base.clone()
    ratio = (count * cosine / denominator).float()
    return t.base + _combined(t.deltas, (ratio / count).expand(count))


# Sparse task vectors, added


def dare_linear(t: TensorMerge) -> torch.Tensor:
    """DARE: drop entries at random, rescale by 1 / density (Yu et al., arXiv 2311.03099), then add.

    Variant: the rescaled task vectors are combined as in task arithmetic, so the expectation of
    the result over the masks is task arithmetic itself. (mergekit rescales to the L1 norm that the
    task vector had before.)
    """
    assert t.densities is not None
    return _added(t, _dropped(t), t.weights / t.densities)


def della_linear(t: TensorMerge) -> torch.Tensor:
    """DELLA's MAGPRUNE (Deep et al., arXiv 2406.11617), then add as in task arithmetic.

    Entries are kept with a probability that rises linearly with their rank by magnitude in their
    row (the last dimension; a vector is one row), from density - epsilon to density + epsilon, and
    kept entries are divided by their own probability, as in the paper, so the expectation is task
    arithmetic. Variant: epsilon is mergekit's, half of the paper's; mergekit rescales to the former
    L1 norm instead.
    """
    return _added(t, _dropped(t), t.weights)


def breadcrumbs(t: TensorMerge) -> torch.Tensor:
    """Model breadcrumbs: drop the largest and the smallest (Davari et al., arXiv 2312.06795), add.

    Variant: per tensor; with n entries the floor(gamma n) largest are dropped, the next
    max(1, floor(density n)) are kept, together with all that equal the first or last of these.
    """
    return _added(t, _trimmed(t), t.weights)


# Sparse task vectors, merged where signs agree


def ties(t: TensorMerge) -> torch.Tensor:
    """TIES: trim, elect a sign per entry, merge those that agree (Yadav et al., arXiv 2306.01708).

    Variant: trimming is per tensor and keeps k = max(1, floor(density * n)) entries of largest
    magnitude, together with all that equal the k-th; the sign elected is that of the *weighted*
    sum; agreeing entries are summed with their weights and, if normalised, divided by the sum of
    the agreeing weights (mergekit's rule; the paper's unweighted mean at equal weights).
    """
    return _agreed(t, _trimmed(t), t.weights)


def dare_ties(t: TensorMerge) -> torch.Tensor:
    """DARE's dropping and rescaling, then TIES's sign election and merge, without trimming."""
    assert t.densities is not None
    return _agreed(t, _dropped(t), t.weights / t.densities)


def della(t: TensorMerge) -> torch.Tensor:
    """DELLA: MAGPRUNE as in `della_linear`, then TIES's sign election and merge."""
    return _agreed(t, _dropped(t), t.weights)


def breadcrumbs_ties(t: TensorMerge) -> torch.Tensor:
    """Breadcrumbs' two-sided trimming, then TIES's sign election and merge (mergekit's)."""
    return _agreed(t, _trimmed(t), t.weights)


def hm3_eq5(t: TensorMerge) -> torch.Tensor:
    """HM3's equation (5) taken literally: theta_base + sum_k lambda_k M_k * delta_k.

    M_k keeps what DARE's random mask keeps and agrees with the elected sign; neither DARE's
    1 / density nor TIES's division by the agreeing weight appear in the equation, so neither is
    applied here. `dare_ties` is the variant with both.
    """
    return t.base + _elect_and_merge(_dropped(t), t.weights, t.weights, False)


def _expert_products(gram: torch.Tensor) -> torch.Tensor:
    """Inner products of the experts themselves: <b + d_i, b + d_j>, shape (K, K)."""
    cross = gram[0, 1:]
    return gram[0, 0] + cross[:, None] + cross[None, :] + gram[1:, 1:]


def over_sum(factor: float, weights: torch.Tensor, divided: bool = True) -> torch.Tensor:
    """A factor as fp32, a scalar tensor; divided by the sum of the weights if asked for.

    Args:
        factor: Too large for fp32 it is infinity; the model's logits will tell.
        weights: fp32, shape (K,).
        divided: Whether to divide.
    """
    given = torch.tensor(factor, dtype=torch.float64).to(weights)
    return given / weights.sum() if divided else given


def _total(terms: torch.Tensor) -> torch.Tensor:
    """Sum over the experts, one after the other, from zero: shape base.shape."""
    total = terms[0] + 0.0
    for term in terms[1:]:
        total.add_(term)
    return total


def _per_expert(numbers: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Numbers of shape (K,) so that they go with task vectors of shape (K, *base.shape)."""
    return numbers.reshape(-1, *([1] * (deltas.dim() - 1)))


def _combined(deltas: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """sum_k shares_k deltas_k, shape base.shape; `deltas` are overwritten."""
    return _total(deltas.mul_(_per_expert(shares, deltas)))


def _added(t: TensorMerge, deltas: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """theta_base + scale * sum_k factors_k deltas_k, divided by the weights' sum if normalised."""
    merged = _combined(deltas, factors)
    return merged.mul_(over_sum(t.scale, t.weights, t.normalise)).add_(t.base)


def _agreed(t: TensorMerge, deltas: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """theta_base + scale * what agrees with the elected signs."""
    merged = _elect_and_merge(deltas, factors, t.weights, t.normalise)
    return merged.mul_(over_sum(t.scale, t.weights, False)).add_(t.base)


def _trimmed(t: TensorMerge) -> torch.Tensor:
    """Set entries outside [smallest, largest] to zero, in place."""
    assert t.smallest is not None
    # hardshrink keeps |x| > threshold in one pass; the next smaller float makes that >=.
    for row, smallest in enumerate(t.smallest):
        below = float(np.nextafter(np.float32(smallest), np.float32(-1)))
        torch.ops.aten.hardshrink.out(t.deltas[row], below, out=t.deltas[row])
    for row, largest in enumerate(t.largest or ()):
        t.deltas[row].sub_(torch.nn.functional.hardshrink(t.deltas[row], largest))
    return t.deltas


def _dropped(t: TensorMerge) -> torch.Tensor:
    """Drop entries at random, in place."""
    for row, survive in enumerate(t.survival):
        survive(t.deltas[row])
    return t.deltas


def _elect_and_merge(
    deltas: torch.Tensor, factors: torch.Tensor, weights: torch.Tensor, normalise: bool
) -> torch.Tensor:
    """Sum factor_k delta_k over the entries that agree with the sign of that sum.

    Args:
        deltas: Trimmed or dropped task vectors, shape (K, *base.shape); overwritten.
        factors: What each is multiplied by, shape (K,): its weight, rescaled for DARE.
        weights: The weights, shape (K,).
        normalise: Whether to divide each entry by the sum of the agreeing weights.

    Returns:
        The merged task vector, shape base.shape.
    """
    terms = deltas.mul_(_per_expert(factors, deltas))
    sign = _total(terms).sign_()
    # Positive where an entry agrees.
    agreeing = terms.mul_(sign).relu_()
    merged = _total(agreeing).mul_(sign)
    if not normalise:
        return merged
    total = _combined(agreeing.sign_(), weights)
    # Where no entry agrees the sum is zero and stays zero; weights of both signs may cancel.
    return merged.div_(total.add_(total.abs().lt_(1e-8)))

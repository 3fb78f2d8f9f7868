"""Regions of a box, and how much each promises: the kd-tree of MOHOLLM.

Schwanke et al., "Multi-Objective Hierarchical Optimization with Large Language Models" (arXiv
2601.13892). What was evaluated divides the box into leaves; each leaf is an arm of a bandit whose
score weighs what it gave (hypervolume that only its points have), how large it is, and how little
is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hm3rl.objectives.indicators import hypervolume

ONE_POINT_VARIANCE = 0.01
"""Variance of a leaf that has one point."""

EXPLORING, EXPLOITING, STEPS = 1.0, 0.01, 100
"""Weight of size and ignorance in the first round and from round `STEPS` on."""


@dataclass(frozen=True, eq=False)
class Region:
    """A leaf: a box and the points in it.

    Attributes:
        members: Indexes of its points, shape (n,), n at least 1.
        lower: Its lower corner, shape (D,).
        upper: Its upper corner, shape (D,).
    """

    members: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def divide(points: np.ndarray, lower: np.ndarray, upper: np.ndarray, most: int) -> list[Region]:
    """The leaves of a kd-tree: split where points vary most, at the median, until few are left.

    Args:
        points: Shape (N, D), N at least 1, inside the box.
        lower: Lower corner of the box, shape (D,).
        upper: Upper corner, shape (D,).
        most: Points of a leaf; one whose points are all alike may have more.

    Returns:
        Boxes without gap or overlap but their common faces; every point is in one of them.
    """
    whole = Region(np.arange(len(points)), np.asarray(lower, float), np.asarray(upper, float))
    leaves, waiting = [], [whole]
    while waiting:
        region = waiting.pop()
        inside = points[region.members]
        axis = int(inside.var(axis=0).argmax())
        values = inside[:, axis]
        if len(inside) <= most or values.min() == values.max():
            leaves.append(region)
            continue
        at = float(np.median(values))
        if at == values.max():  # most of them are at one end
            at = float(values[values < at].max())
        below, above = region.upper.copy(), region.lower.copy()
        below[axis] = above[axis] = at
        waiting.append(Region(region.members[values > at], above, region.upper))
        waiting.append(Region(region.members[values <= at], region.lower, below))
    return leaves


def between_extremes(scores: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Scores on the scale of known ones: 0 is the worst known of an objective, 1 the best.

    Args:
        scores: Shape (n, K), to be maximised.
        known: Shape (N, K). An objective in which all are alike counts as 1 for these.
    """
    best = known.max(axis=0)
    span = best - known.min(axis=0)
    return 1.0 - (best - scores) / np.where(span > 0, span, 1.0)


def exploration(step: int) -> float:
    """Weight alpha of size and ignorance in round `step`, counted from 0: half a cosine."""
    share = min(step, STEPS) / STEPS
    return float(EXPLOITING + (EXPLORING - EXPLOITING) * (1.0 + np.cos(np.pi * share)) / 2.0)


def gains(regions: Sequence[Region], scores: np.ndarray) -> np.ndarray:
    """E: hypervolume that only a leaf's points have, shape (leaves,).

    Args:
        regions: The leaves.
        scores: Of all points, between extremes, shape (N, K); the reference is 0.
    """
    whole = hypervolume(scores)
    without = [hypervolume(np.delete(scores, region.members, axis=0)) for region in regions]
    return whole - np.array(without)


def sizes(regions: Sequence[Region], lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """V: the D-th root of a leaf's share of the box's volume, shape (leaves,)."""
    sides = np.array([(region.upper - region.lower) / (upper - lower) for region in regions])
    return np.exp(np.log(np.maximum(sides, 1e-300)).mean(axis=1))


def ignorance(regions: Sequence[Region], scores: np.ndarray) -> np.ndarray:
    """U: an upper bound that takes the variance of what a leaf gave into account.

    With n points in a leaf, N in all and K leaves, L = max(0, ln(n N / K)) and
    U = sqrt(2 s^2 L / n) + L / n, s^2 the variance of the hypervolumes that single points dominate.

    Args:
        regions: The leaves.
        scores: Of all points, between extremes, shape (N, K); the reference is 0.

    Returns:
        Shape (leaves,).
    """
    alone = np.prod(np.maximum(scores, 0.0), axis=1)
    counts = np.array([len(region.members) for region in regions])
    variances = np.array(
        [
            np.var(alone[region.members]) if len(region.members) > 1 else ONE_POINT_VARIANCE
            for region in regions
        ]
    )
    logs = np.maximum(0.0, np.log(len(scores) / len(regions) * counts))
    return np.sqrt(2.0 * variances * logs / counts) + logs / counts


def attraction(
    regions: Sequence[Region],
    scores: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    step: int,
) -> np.ndarray:
    """Probability that a leaf is drawn first, in proportion to its score A.

    A = softmax(E) + alpha (softmax(V) / 2 + softmax(U) / 2).

    Args:
        regions: The leaves.
        scores: Of all points, to be maximised, shape (N, K).
        lower: Lower corner of the box, shape (D,).
        upper: Upper corner, shape (D,).
        step: Round, from 0.

    Returns:
        Shape (leaves,), sums to 1.
    """
    scaled = between_extremes(scores, scores)
    parts = (
        gains(regions, scaled),
        sizes(regions, lower, upper),
        ignorance(regions, scaled),
    )
    gained, size, unknown = (_softmax(part) for part in parts)
    total = gained + exploration(step) * (size + unknown) / 2.0
    return total / total.sum()


def _softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    return shares / shares.sum()

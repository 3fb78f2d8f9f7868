"""Indicators of a set of candidates, all for objectives to be maximised.

A hypervolume says nothing without its normalisation and reference point: in this package points are
f / z* (z* = the best source expert on each task) and the reference is 0.
"""

from __future__ import annotations

import moocore
import numpy as np

from hm3rl.objectives.scalarisation import Scalarisation, scalarise


def _as_points(points: np.ndarray) -> np.ndarray:
    array = np.atleast_2d(np.asarray(points, dtype=np.float64))
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError(f"points must be a finite array of shape (N, K), got shape {array.shape}")
    return array


def hypervolume(points: np.ndarray, reference: np.ndarray | None = None) -> float:
    """Volume dominated by the points above the reference (Zitzler and Thiele, 1999), exact.

    Args:
        points: Shape (N, K), to be maximised. N may be 0.
        reference: Shape (K,); default 0. Points that do not exceed it in every objective add
            nothing.

    Returns:
        The volume, in the product of the objectives' units.
    """
    if np.size(points) == 0:
        return 0.0
    array = _as_points(points)
    floor = (
        np.zeros(array.shape[1]) if reference is None else np.asarray(reference, dtype=np.float64)
    )
    above = array[(array > floor).all(axis=1)]
    if len(above) == 0:
        return 0.0
    if array.shape[1] == 1:
        return float((above - floor).max())
    return float(moocore.hypervolume(-above, ref=-floor))


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Which points no other point dominates; of equal points the first stays.

    Args:
        points: Shape (N, K), to be maximised.

    Returns:
        Boolean array of shape (N,).
    """
    if np.size(points) == 0:
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(-_as_points(points), keep_weakly=False), dtype=bool)


def expected_utility(
    points: np.ndarray, preferences: np.ndarray, kind: Scalarisation = "weighted_sum"
) -> float:
    """Mean over preferences of the best utility in the set (EUM; Zintgraf et al., 2015).

    Args:
        points: Normalised scores, shape (N, K).
        preferences: Shape (P, K).
        kind: Scalarisation.

    Returns:
        The mean.
    """
    utilities = scalarise(_as_points(points)[:, None, :], np.asarray(preferences)[None, :, :], kind)
    return float(utilities.max(axis=0).mean())


def chosen_utility(
    decisive: np.ndarray,
    judged: np.ndarray,
    preferences: np.ndarray,
    kind: Scalarisation = "weighted_sum",
) -> float:
    """Mean over preferences of what the model chosen by some scores is worth by others.

    `expected_utility` of the judged scores is never less: its best of many noisy scores is too
    good, the more so the more points there are. A choice made by other items has no such bias.

    Args:
        decisive: Normalised scores that choose, shape (N, K).
        judged: Scores of the same N on other items, shape (N, K).
        preferences: Shape (P, K).
        kind: Scalarisation.

    Returns:
        The mean.
    """
    goals = np.asarray(preferences)[None, :, :]
    chosen = scalarise(_as_points(decisive)[:, None, :], goals, kind).argmax(axis=0)
    worth = scalarise(_as_points(judged)[:, None, :], goals, kind)
    return float(worth[chosen, np.arange(len(chosen))].mean())

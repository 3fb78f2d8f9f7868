"""Scalarisations u_lambda: normalised task scores and a preference to one number to maximise."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Scalarisation = Literal["weighted_sum", "tchebycheff"]
RHO = 0.05
"""Weight of Tchebycheff's augmentation."""

SCALARISATIONS: tuple[str, ...] = get_args(Scalarisation)


def weighted_sum(scores: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Linear utility, sum_k lambda_k f_k / z*_k (HM3 equation (9) without its length cost).

    Args:
        scores: Normalised scores f / z*, shape (..., K).
        preference: Points of the simplex, shape broadcastable to (..., K).

    Returns:
        Utilities, shape (...).
    """
    return (np.asarray(scores) * preference).sum(axis=-1)


def tchebycheff(
    scores: np.ndarray, preference: np.ndarray, utopia: np.ndarray | None = None, rho: float = RHO
) -> np.ndarray:
    """Augmented Tchebycheff utility, -max_k lambda_k (z_k - f_k) - rho sum_k lambda_k (z_k - f_k).

    HM3's equations (3) and (4) state it with |f - z*|. With the absolute value a candidate above z*
    is punished, so the difference keeps its sign here. The augmentation makes weakly
    dominated candidates lose (Steuer and Choo, 1983).

    Args:
        scores: Normalised scores f / z*, shape (..., K).
        preference: Points of the simplex, shape broadcastable to (..., K).
        utopia: A point z no candidate exceeds, in the same units, shape (K,); default is 1.1 for
            each objective.
        rho: Weight of the augmentation, >= 0.

    Returns:
        Utilities, shape (...); 0 at the utopian point.
    """
    scores = np.asarray(scores, dtype=np.float64)
    ideal = (
        np.full(scores.shape[-1], 1.1) if utopia is None else np.asarray(utopia, dtype=np.float64)
    )
    gap = preference * (ideal - scores)
    return -(gap.max(axis=-1) + rho * gap.sum(axis=-1))


def scalarise(
    scores: np.ndarray,
    preference: np.ndarray,
    kind: Scalarisation = "weighted_sum",
    utopia: np.ndarray | None = None,
    rho: float = RHO,
) -> np.ndarray:
    """Apply the named scalarisation.

    Args:
        scores: Normalised scores f / z*, shape (..., K).
        preference: Points of the simplex, shape broadcastable to (..., K).
        kind: "weighted_sum" or "tchebycheff".
        utopia: See `tchebycheff`.
        rho: See `tchebycheff`.

    Returns:
        Utilities, shape (...).

    Raises:
        ValueError: `kind` is neither.
    """
    if kind == "weighted_sum":
        return weighted_sum(scores, preference)
    if kind == "tchebycheff":
        return tchebycheff(scores, preference, utopia, rho)
    raise ValueError(f"unknown scalarisation {kind!r}; one of {', '.join(SCALARISATIONS)}")

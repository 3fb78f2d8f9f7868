"""Which of many paths deserve an evaluation: greedy batches by expected improvement.

The improvement is measured on joint posterior samples of the surrogate, and a path chosen for the
batch counts as known in every sample when the next is chosen (as in qEHVI: Daulton et al., 2020),
so a batch spreads along the front.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

MARGIN = 0.1
"""How far beyond the best value seen the box of possible improvement reaches."""


def improvement_points(front: np.ndarray, upper: np.ndarray, count: int) -> np.ndarray:
    """Quasi-random points of the box [min(0, worst), upper] that the front does not dominate.

    The share of them that a vector dominates is proportional to its hypervolume improvement.

    Args:
        front: Known vectors, shape (F, K).
        upper: Upper corner of the box, shape (K,).
        count: Points before those dominated are dropped, a power of two.

    Returns:
        Shape (at most count, K).
    """
    k = front.shape[1]
    lower = np.minimum(front.min(axis=0), 0.0)
    unit = qmc.Sobol(k, scramble=False).random(count) + 0.5 / count
    points = lower + unit * (upper - lower)
    dominated = (front[None, :, :] >= points[:, None, :]).all(axis=2).any(axis=1)
    return points[~dominated]


def choose_by_hypervolume(
    samples: np.ndarray, front: np.ndarray, batch: int, count: int = 1024
) -> np.ndarray:
    """Greedy batch by expected hypervolume improvement.

    Args:
        samples: Posterior samples of n paths, shape (S, n, K).
        front: Known vectors, shape (F, K).
        batch: Paths to choose.
        count: Quasi-random points of the integral.

    Returns:
        Indexes of the chosen, in order of choice, at most n.
    """
    reach = np.maximum(front.max(axis=0), np.quantile(samples, 0.999, axis=(0, 1)))
    points = improvement_points(front, reach + MARGIN, count)
    chosen: list[int] = []
    alive = np.ones((len(samples), len(points)), dtype=bool)
    dominates = np.all(samples[:, :, None, :] >= points[None, None], axis=3)  # (S, n, points)
    for _ in range(min(batch, samples.shape[1])):
        gain = np.einsum("snp,sp->n", dominates, alive, dtype=np.float32)
        gain[chosen] = -1.0
        pick = int(gain.argmax())
        chosen.append(pick)
        alive &= ~dominates[:, pick]
    return np.array(chosen)


def choose_by_utility(utilities: np.ndarray, best: np.ndarray, batch: int) -> np.ndarray:
    """Greedy batch by expected improvement of the best utility, averaged over preferences.

    Args:
        utilities: Of posterior samples of n paths under P preferences, shape (S, n, P).
        best: Best known utility under each preference, shape (P,).
        batch: Paths to choose.

    Returns:
        Indexes of the chosen, in order of choice, at most n.
    """
    standing = np.tile(best, (len(utilities), 1))
    chosen: list[int] = []
    for _ in range(min(batch, utilities.shape[1])):
        gain = np.maximum(utilities - standing[:, None, :], 0.0).mean(axis=(0, 2))
        gain[chosen] = -1.0
        pick = int(gain.argmax())
        chosen.append(pick)
        standing = np.maximum(standing, utilities[:, pick])
    return np.array(chosen)

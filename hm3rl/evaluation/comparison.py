"""Is one candidate better than another, or was it luck? Paired comparisons from scores per item.

Two candidates answer the same questions, so what counts is the difference on each item: items that
are easy or hard for both cancel out, and the standard error is smaller than that of two
separate means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm

from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.result import Evaluation
from hm3rl.tasks.suite import MIN_ITEMS


@dataclass(frozen=True)
class Difference:
    """How much better one candidate is than another on one task.

    Attributes:
        mean: Mean difference of scores, in [-1, 1]; positive if the first is better.
        standard_error: Of the mean, from the spread of the differences over items.
        items: Items both were asked.
        p_value: Probability of a mean at least as far from 0 if neither is better: McNemar's exact
            test where all scores are 0 or 1 (McNemar, 1947), else the normal approximation.
    """

    mean: float
    standard_error: float
    items: int
    p_value: float


def paired_difference(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """Compare two candidates on the items both were asked.

    Args:
        first: An evaluation.
        second: One on the same split, of whatever share of the items.

    Returns:
        Difference by task, first minus second.

    Raises:
        ValueError: One failed, they are of different splits, measures or tasks, or they share fewer
            than two items of a task.
    """
    for evaluation in (first, second):
        if not evaluation.ok:
            raise ValueError(f"{evaluation.key} failed, so it has no scores to compare")
    sides = [(e.split, e.tasks, Fidelity.parse(e.fidelity).measure) for e in (first, second)]
    if sides[0] != sides[1]:
        raise ValueError(f"evaluations of {sides[0]} and {sides[1]} cannot be compared")
    return {task: _difference(first, second, task) for task in first.tasks}


def _difference(first: Evaluation, second: Evaluation, task: str) -> Difference:
    shared, mine, yours = np.intersect1d(
        first.items[task], second.items[task], assume_unique=True, return_indices=True
    )
    if len(shared) < MIN_ITEMS:
        raise ValueError(f"both were asked only {len(shared)} items of {task!r}")
    one, other = first.per_item[task][mine], second.per_item[task][yours]
    gaps = one - other
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    binary = bool(np.isin(one, (0.0, 1.0)).all() and np.isin(other, (0.0, 1.0)).all())
    p_value = _mcnemar(gaps) if binary else _normal(mean, error)
    return Difference(mean, error, len(shared), p_value)


def _mcnemar(gaps: np.ndarray) -> float:
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    if wins + losses == 0:
        return 1.0
    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def _normal(mean: float, error: float) -> float:
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2 * norm.sf(abs(mean) / error))

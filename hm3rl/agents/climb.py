"""Improving paths under the outcome model, at no evaluation."""

from __future__ import annotations

import numpy as np

from hm3rl.agents.moves import neighbours
from hm3rl.agents.outcome import OutcomeModel
from hm3rl.objectives.scalarisation import Scalarisation, scalarise


def climb(
    model: OutcomeModel,
    starts: np.ndarray,
    preferences: np.ndarray,
    kind: Scalarisation,
    rng: np.random.Generator,
    caution: float = 0.0,
    rounds: int = 40,
    breadth: int = 80,
) -> np.ndarray:
    """Steepest ascent of u_lambda(mean - caution * std) over single moves, for many paths at once.

    Args:
        model: A fitted outcome model.
        starts: Legal rows, shape (n, horizon).
        preferences: One for each path, shape (n, K).
        kind: Utility.
        rng: Source of randomness of the moves.
        caution: How many standard deviations are taken off the mean; negative values explore.
        rounds: Most moves for each path.
        breadth: Neighbours looked at for each path and round.

    Returns:
        Legal rows, shape (n, horizon); a path stops where no neighbour seen is better.
    """

    def utility(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        if caution:
            mean, std = model.predict(rows)
            mean = mean - caution * std
        else:
            mean = model.mean(rows)
        return scalarise(mean, preferences[which], kind)

    current = np.array(starts)
    best = utility(current, np.arange(len(current)))
    active = np.arange(len(current))
    for _ in range(rounds):
        if len(active) == 0:
            break
        options = [neighbours(model.space, current[i], breadth, rng) for i in active]
        owner = np.repeat(active, [len(rows) for rows in options])
        rows = np.concatenate(options)
        values = utility(rows, owner)
        moved = []
        start = 0
        for i, found in zip(active, options, strict=True):
            part = values[start : start + len(found)]
            top = int(part.argmax()) if len(part) else 0
            if len(part) and part[top] > best[i] + 1e-9:
                current[i], best[i] = found[top], part[top]
                moved.append(i)
            start += len(found)
        active = np.array(moved, dtype=int)
    return current

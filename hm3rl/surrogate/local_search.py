"""Improving paths under the surrogate, at no evaluation."""

from __future__ import annotations

import numpy as np

from hm3rl.objectives.utility import Utility
from hm3rl.paths.variation import neighbours
from hm3rl.surrogate.path_surrogate import PathSurrogate


def climb(
    model: PathSurrogate,
    starts: np.ndarray,
    preferences: np.ndarray,
    utility: Utility,
    rng: np.random.Generator,
    rounds: int = 40,
    breadth: int = 80,
) -> np.ndarray:
    """Steepest ascent of the expected outcome's utility over single moves, for many paths at once.

    Args:
        model: A fitted surrogate.
        starts: Legal rows, shape (n, horizon).
        preferences: One for each path, shape (n, K).
        utility: What is climbed.
        rng: Source of randomness of the moves.
        rounds: Most moves for each path.
        breadth: Neighbours looked at for each path and round.

    Returns:
        Legal rows, shape (n, horizon); a path stops where no neighbour seen is better.
    """

    def expected(rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        return utility(model.mean(rows), model.space.lengths(rows), preferences[which])

    current = np.array(starts)
    best = expected(current, np.arange(len(current)))
    active = np.arange(len(current))
    for _ in range(rounds):
        if len(active) == 0:
            break
        options = [neighbours(model.space, current[i], breadth, rng) for i in active]
        owner = np.repeat(active, [len(rows) for rows in options])
        values = expected(np.concatenate(options), owner)
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

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
    utopia: np.ndarray | None = None,
    rounds: int = 40,
    breadth: int = 80,
) -> np.ndarray:
    """Steepest ascent of the expected outcome's utility over single moves, for many paths at once.

    Args:
        model: A fitted outcome model.
        starts: Legal rows, shape (n, horizon).
        preferences: One for each path, shape (n, K).
        kind: Utility.
        rng: Source of randomness of the moves.
        utopia: Of the Tchebycheff utility, shape (K,).
        rounds: Most moves for each path.
        breadth: Neighbours looked at for each path and round.

    Returns:
        Legal rows, shape (n, horizon); a path stops where no neighbour seen is better.
    """

    def utility(means: np.ndarray, which: np.ndarray) -> np.ndarray:
        return scalarise(means, preferences[which], kind, utopia)

    current = np.array(starts)
    best = utility(model.mean(current), np.arange(len(current)))
    active = np.arange(len(current))
    for _ in range(rounds):
        if len(active) == 0:
            break
        options = [neighbours(model.space, current[i], breadth, rng) for i in active]
        owner = np.repeat(active, [len(rows) for rows in options])
        values = utility(model.mean(np.concatenate(options)), owner)
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

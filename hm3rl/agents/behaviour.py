"""Behaviour paths of the offline phase: mixtures by preference and variations of the best."""

from __future__ import annotations

import numpy as np

from hm3rl.objectives.utility import Utility
from hm3rl.paths.variation import crossover, mixtures, mutate, random_walk
from hm3rl.surrogate.dataset import Dataset

SHARPNESS = 0.1
"""Temperature, in units of f / z*, of the members' weights under a preference."""


def member_weights(dataset: Dataset, preferences: np.ndarray, utility: Utility) -> np.ndarray:
    """How much of each member a mixture under a preference takes.

    A member counts by the utility of its own path, which generalises the paper's draw in proportion
    to the preference to merged members; members whose own path is unknown count as average ones.

    Args:
        dataset: Evaluated paths.
        preferences: Shape (n, K).
        utility: What a path is worth.

    Returns:
        Probabilities, shape (n, M).
    """
    space = dataset.space
    own = np.full((len(preferences), len(space.members)), np.nan)
    for member in range(len(space.members)):
        row = space.whole(member) if space.num_layers[member] <= space.max_length else None
        if row is not None and dataset.knows(row) and dataset.outcome(row).ok:
            vector, length = dataset.outcome(row).vector, space.num_layers[member]
            own[:, member] = utility(vector, length, preferences)
    # A member's path is known or not, whatever the preference; there may be no preference at all.
    known = np.isfinite(own).all(axis=0) if len(own) else np.zeros(own.shape[1], dtype=bool)
    average = own[:, known].mean(axis=1) if known.any() else np.zeros(len(preferences))
    own = np.where(known, own, average[:, None])
    weights = np.exp((own - own.max(axis=1, keepdims=True)) / SHARPNESS)
    return weights / weights.sum(axis=1, keepdims=True)


def beyond(vectors: np.ndarray) -> np.ndarray:
    """A utopian point for Tchebycheff: a tenth of the range above the best, shape (K,)."""
    best = vectors.max(axis=0)
    return np.asarray(best + 0.1 * np.maximum(best - vectors.min(axis=0), 1e-6))


def explorer(dataset: Dataset, length_cost: float) -> Utility:
    """Tchebycheff's utility with a utopian point that follows what is known.

    It reaches every part of the front; a weighted sum would only look at its bulges. What is
    explored with it is judged by the agent's own utility.
    """
    utopia = beyond(dataset.vectors) if len(dataset.vectors) else np.array(1.1)
    return Utility("tchebycheff", length_cost, utopia)


def elites(dataset: Dataset, preferences: np.ndarray, utility: Utility) -> np.ndarray:
    """The best known path under each preference, rows of shape (n, horizon)."""
    tokens = dataset.tokens
    lengths = dataset.space.lengths(tokens)
    utilities = utility(dataset.vectors[None], lengths, preferences[:, None, :])
    return tokens[utilities.argmax(axis=1)]


def variations(
    dataset: Dataset,
    preferences: np.ndarray,
    utility: Utility,
    rng: np.random.Generator,
    mixing: float = 0.34,
) -> np.ndarray:
    """One behaviour path for each preference.

    Args:
        dataset: Evaluated paths; may be empty.
        preferences: Shape (n, K).
        utility: By which elites are chosen.
        rng: Source of randomness.
        mixing: Share of fresh mixtures; the rest are mutations (1 to 3 moves) and crossovers.

    Returns:
        Legal rows, not necessarily distinct or new, shape (n, horizon).
    """
    space = dataset.space
    weights = member_weights(dataset, preferences, utility)
    weights = 0.75 * weights + 0.25 / weights.shape[1]
    fresh = rng.random(len(preferences)) < mixing
    if len(dataset.vectors) == 0:
        fresh[:] = True
    known = len(dataset.vectors) > 0
    if known:
        best = elites(dataset, preferences, utility)
        partners = best[rng.permutation(len(best))]
    rows = []
    for i, weight in enumerate(weights):
        if fresh[i]:
            drawn = mixtures(space, weight[None], float(rng.uniform(0.2, 0.8)), rng)
            rows.append(drawn[0] if len(drawn) else random_walk(space, rng))
        elif rng.random() < 0.4 and (best[i] != partners[i]).any():
            child = crossover(space, best[i], partners[i], rng)
            rows.append(mutate(space, child, rng) if rng.random() < 0.3 else child)
        else:
            rows.append(mutate(space, best[i], rng, times=int(rng.integers(1, 4))))
    return np.array(rows, dtype=np.int64).reshape(len(rows), space.horizon)

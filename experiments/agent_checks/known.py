"""What is best in each environment, found by exhaustion."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np

from hm3rl.objectives.indicators import hypervolume, non_dominated
from hm3rl.objectives.scalarisation import Scalarisation, scalarise


def reachable_returns(env: gym.Env[Any, Any], gamma: float) -> np.ndarray:
    """Discounted vector returns of the ends that can be reached, each along a shortest way.

    Breadth first over observations. Exact for deterministic environments in which ways of equal
    length to a state have paid the same and a detour never pays: deep-sea-treasure (each step
    costs 1 until the treasure) and fruit-tree (one way to each node).

    Returns:
        The distinct non-dominated ones, shape (n, K).
    """
    found: list[np.ndarray] = []
    start, _ = env.reset(seed=0)
    seen = {_key(start)}
    waiting: deque[list[int]] = deque([[]])
    while waiting:
        prefix = waiting.popleft()
        for action in range(int(env.action_space.n)):  # type: ignore[attr-defined]
            env.reset(seed=0)
            total, ended = np.zeros(env.unwrapped.reward_dim), False  # type: ignore[attr-defined]
            for step, chosen in enumerate([*prefix, action]):
                observation, reward, ended, _, _ = env.step(chosen)
                total += gamma**step * np.asarray(reward, dtype=np.float64)
            if ended:
                found.append(total)
            elif _key(observation) not in seen:
                seen.add(_key(observation))
                waiting.append([*prefix, action])
    points = np.array(found)
    return points[non_dominated(points)]


def _key(observation: Any) -> bytes:
    return np.asarray(observation).tobytes()


def best_choices(
    points: np.ndarray,
    preferences: np.ndarray,
    kind: Scalarisation,
    utopia: np.ndarray,
    rho: float,
) -> np.ndarray:
    """The point with the highest utility under each preference, shape (P, K)."""
    utilities = scalarise(points[None], preferences[:, None], kind, utopia, rho)
    return points[utilities.argmax(axis=1)]


def measures(
    found: np.ndarray, preferences: np.ndarray, front: np.ndarray, reference: np.ndarray | None
) -> dict[str, float]:
    """Measures of what a policy reaches, one return for each preference.

    Args:
        found: Returns, shape (P, K).
        preferences: Shape (P, K).
        front: All non-dominated returns there are.
        reference: Of the hypervolume; None: not measured.

    Returns:
        `utility` (mean linear utility of each preference's own return), `points` (how many points
        of the front are among the returns), and `hypervolume`.
    """
    known = {tuple(row) for row in front.round(6)}
    out = {
        "utility": float((found * preferences).sum(axis=1).mean()),
        "points": float(len({tuple(row) for row in found.round(6)} & known)),
    }
    if reference is not None:
        out["hypervolume"] = hypervolume(found, reference)
    return out

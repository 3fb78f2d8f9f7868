"""A small environment with vector rewards and known returns, for tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Corridor(gym.Env[Any, Any]):
    """Walk left or right from the middle of a corridor; each end pays another objective.

    The left end pays (1, 0), the right end (0, 1), waiting pays nothing, the hatch in the middle
    (action 3, legal only there) pays `hatch`, and every move costs `cost` on both. Going through a
    wall cannot happen: the ends terminate.

    Args:
        half: Steps from the middle to either end.
        hatch: Reward of the hatch.
        cost: Of each action.
    """

    def __init__(
        self, half: int = 2, hatch: tuple[float, float] = (0.4, 0.4), cost: float = 0.0
    ) -> None:
        self.half, self.hatch, self.cost = half, np.array(hatch), cost
        self.observation_space = spaces.Discrete(2 * half + 1)
        self.action_space = spaces.Discrete(4)
        self.reward_space = spaces.Box(-1.0, 1.0, shape=(2,), dtype=np.float64)
        self.reward_dim = 2
        self.place = half

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple:
        super().reset(seed=seed)
        self.place = self.half
        return self.place, {}

    def action_masks(self) -> np.ndarray:
        return np.array([True, True, True, self.place == self.half])

    def step(self, action: int) -> tuple:
        reward = np.full(2, -self.cost)
        if action == 3:
            return self.place, reward + self.hatch, True, False, {}
        self.place += (-1, 1, 0)[action]
        left, right = self.place == 0, self.place == 2 * self.half
        reward = reward + np.array([float(left), float(right)])
        return self.place, reward, left or right, False, {}


def corridor(limit: int = 12, **options: Any) -> gym.Env[Any, Any]:
    """A corridor whose episodes are cut off after some steps."""
    return gym.wrappers.TimeLimit(Corridor(**options), limit)

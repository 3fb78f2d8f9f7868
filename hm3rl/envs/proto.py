"""`ProtoActionWrapper`: continuous proto-actions over environments with discrete actions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from hm3rl.envs.path_env import Observation

BOUND = 100.0
"""Bound of proto-actions; embeddings are of order one, Stable-Baselines3 wants it finite."""

Mapping = Callable[[np.ndarray, Observation, np.ndarray], np.ndarray]
"""Proto-actions (n, D), observations and legal actions (n, A) -> actions (n,)."""


class ProtoActionWrapper(VecEnvWrapper):
    """Lets an agent act by points of an embedding space (Wolpertinger; HM3, equation (11)).

    The mapping to discrete actions belongs to the environment: what learns from a rollout sees the
    proto-actions only, so ratio and entropy are theirs.

    Args:
        venv: Environments with discrete actions and `action_masks`.
        box: The space of proto-actions.
        mapping: Chooses a legal action for each proto-action.
    """

    def __init__(self, venv: VecEnv, box: spaces.Box, mapping: Mapping) -> None:
        super().__init__(venv, action_space=box)
        self.mapping = mapping
        self._observations: Observation = {}

    def reset(self) -> Observation:
        """Reset the wrapped environments."""
        self._observations = self.venv.reset()  # type: ignore[assignment]
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """Map proto-actions of shape (n, D) and take the actions found."""
        legal = np.stack(self.venv.env_method("action_masks"))
        self.venv.step_async(self.mapping(actions, self._observations, legal))

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them."""
        result = self.venv.step_wait()
        self._observations = result[0]  # type: ignore[assignment]
        return result

"""`PreferenceEnv` side by side, with rewards that are vectors, and a record of every episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from hm3rl.envs.multi_objective import PreferenceEnv


class Episode(NamedTuple):
    """One complete episode of T steps.

    Attributes:
        states: State features before each step, float32 of shape (T, S).
        actions: Integers of shape (T,).
        masks: Legal actions before each step, boolean of shape (T, A).
        rewards: Scaled vector rewards, shape (T, K).
        preference: Under which it was acted, shape (K,).
    """

    states: np.ndarray
    actions: np.ndarray
    masks: np.ndarray
    rewards: np.ndarray
    preference: np.ndarray


class EpisodeVecEnv(VecEnvWrapper):
    """Several `PreferenceEnv`, whose complete episodes are handed to a listener.

    Args:
        make_env: Makes one environment.
        count: How many.
        vector: Whether rewards are vectors of shape (count, K) instead of utilities (count,).
        listener: Receives each episode when it ends.
    """

    def __init__(
        self,
        make_env: Callable[[], PreferenceEnv],
        count: int,
        vector: bool,
        listener: Callable[[Episode], None],
    ) -> None:
        super().__init__(DummyVecEnv([make_env] * count))
        self.vector = vector
        self.listener = listener
        self._steps: list[list[tuple[np.ndarray, int, np.ndarray, np.ndarray]]] = []

    def reset(self) -> VecEnvObs:
        """Reset all; unfinished episodes are forgotten."""
        self._steps = [[] for _ in range(self.num_envs)]
        observations = self.venv.reset()
        assert isinstance(observations, dict)
        self._states = observations["state"]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step, shape (count,)."""
        self._actions = np.asarray(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them."""
        observations, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(observations, dict)
        vectors = np.stack([info["vector_reward"] for info in infos])
        for i, info in enumerate(infos):
            self._steps[i].append(
                (self._states[i], int(self._actions[i]), info["mask"], vectors[i])
            )
            if dones[i]:
                states, actions, masks, paid = zip(*self._steps[i], strict=True)
                self.listener(
                    Episode(
                        np.stack(states),
                        np.array(actions),
                        np.stack(masks),
                        np.stack(paid),
                        info["preference"],
                    )
                )
                self._steps[i] = []
        self._states = observations["state"]
        return observations, vectors if self.vector else rewards, dones, infos

"""MO-Gymnasium's environments, whose rewards are vectors, with a preference for every episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import Scalarisation, scalarise

Observation = dict[str, np.ndarray]


class Episode(NamedTuple):
    """One complete episode of T steps.

    Attributes:
        states: State features before each step, float32 of shape (T, S).
        actions: Integers of shape (T,).
        rewards: Scaled vector rewards, shape (T, K).
        preference: Under which it was acted, shape (K,).
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    preference: np.ndarray


class PreferenceEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of few integer coordinates and few actions, all of them legal.

    ## Observation Space
    `Dict`: `state` (the coordinates one-hot, because a number that names a place or a node says
    little as a magnitude), `preference` (K). For a utility that is not linear the state ends with
    the vector accrued so far and the current discount, because what is best to do depends on what
    one has.

    ## Action Space
    The environment's, `Discrete`.

    ## Reward
    Vectors are divided by `scale`. Linear utility: lambda . r at each step, to be discounted by the
    agent. Any other: 0 until the end, then u_lambda of the discounted return, to be taken as it is.
    `info["vector_reward"]` is the scaled vector, and at the end `info["vector_return"]` the
    discounted return in the environment's units.

    ## Starting State
    A preference drawn uniformly from the simplex, or `options["preference"]` of shape (K,).

    ## Termination
    As the environment; a time limit counts as an end, because a vector has no bootstrap value.

    Args:
        env: Its observations are an integer `Box`; `unwrapped.reward_space` has shape (K,).
        gamma: Discount of the returns, in (0, 1].
        scalarisation: u_lambda.
        scale: Units of the objectives: a number, which leaves linear preferences as they are, or
            shape (K,), which means preferences over scaled objectives.
        utopia: z of Tchebycheff, in scaled units, a number or shape (K,).
        rho: Augmentation of Tchebycheff, see `tchebycheff`.
        listener: Receives each episode when it ends.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        gamma: float,
        scalarisation: Scalarisation = "weighted_sum",
        scale: float | np.ndarray = 1.0,
        utopia: float | np.ndarray = 1.1,
        rho: float = 0.05,
        listener: Callable[[Episode], object] | None = None,
    ) -> None:
        super().__init__(env)
        seen = env.observation_space
        assert isinstance(seen, spaces.Box) and np.issubdtype(seen.dtype, np.integer)
        self.reward_dim = k = int(env.unwrapped.reward_space.shape[0])  # type: ignore[attr-defined]
        self.gamma = gamma
        self.scalarisation: Scalarisation = scalarisation
        self.scale = np.broadcast_to(np.asarray(scale, dtype=np.float64), (k,))
        self.utopia = np.broadcast_to(np.asarray(utopia, dtype=np.float64), (k,))
        self.rho = rho
        self.listener = listener
        counts = (seen.high.astype(np.int64) - seen.low + 1).ravel()
        self._begin_at = np.concatenate([[0], np.cumsum(counts)[:-1]]) - seen.low.ravel()
        self._width = int(counts.sum())
        width = self._width if self.linear else self._width + k + 1
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(-np.inf, np.inf, shape=(width,), dtype=np.float32),
                "preference": spaces.Box(0.0, 1.0, shape=(k,), dtype=np.float32),
            }
        )
        self._rng = np.random.default_rng()

    @property
    def linear(self) -> bool:
        """Whether the utility is a weighted sum."""
        return self.scalarisation == "weighted_sum"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `seed` seeds the environment and the preferences."""
        observation, info = self.env.reset(seed=seed)
        if seed is not None:
            # A stream of its own, so that the preferences do not follow the environment's draws.
            self._rng = np.random.default_rng([seed, 1])
        given = (options or {}).get("preference")
        drawn = sample_dirichlet(1, self.reward_dim, self._rng)[0] if given is None else given
        self.preference = np.asarray(drawn, dtype=np.float64)
        self._accrued = np.zeros(self.reward_dim)
        self._discount = 1.0
        self._steps: list[tuple[np.ndarray, int, np.ndarray]] = []
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        before = self._state
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        vector = np.asarray(reward, dtype=np.float64) / self.scale
        self._steps.append((before, int(action), vector))
        self._accrued += self._discount * vector
        self._discount *= self.gamma
        ended = bool(terminated or truncated)
        info = {**info, "vector_reward": vector}
        utility = 0.0
        if self.linear:
            utility = float(vector @ self.preference)
        elif ended:
            utility = float(self.utility(self._accrued, self.preference))
        if ended:
            info["vector_return"] = self._accrued * self.scale
            if self.listener is not None:
                states, actions, rewards = (np.array(x) for x in zip(*self._steps, strict=True))
                self.listener(Episode(states, actions, rewards, self.preference))
        return self._observe(observation), utility, ended, False, info

    def utility(self, vectors: np.ndarray, preferences: np.ndarray) -> np.ndarray:
        """u_lambda of scaled returns, shapes (..., K) -> (...)."""
        return scalarise(vectors, preferences, self.scalarisation, self.utopia, self.rho)

    def _observe(self, observation: Any) -> Observation:
        state = np.zeros(self._width, dtype=np.float32)
        state[self._begin_at + np.asarray(observation, dtype=np.int64).ravel()] = 1.0
        if not self.linear:
            state = np.concatenate([state, self._accrued, [self._discount]]).astype(np.float32)
        self._state = state
        return {"state": state, "preference": self.preference.astype(np.float32)}


class VectorRewards(VecEnvWrapper):
    """Passes the vectors of several `PreferenceEnv`, shape (num_envs, K), instead of utilities."""

    def reset(self) -> VecEnvObs:
        """Reset all."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Apply the actions."""
        observations, _, dones, infos = self.venv.step_wait()
        return observations, np.stack([info["vector_reward"] for info in infos]), dones, infos

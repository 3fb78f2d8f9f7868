"""Many path episodes side by side, scored in one call when the last of them has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from hm3rl.envs.merge_path import MergePathEnv, Observation, observe


class MergePathVecEnv(VecEnv):
    """Vectorised `MergePathEnv` with one scoring call for each batch of episodes.

    A batch lasts exactly `space.horizon` steps. An episode that ended earlier idles: its mask
    leaves STOP alone, which does nothing, and the rollout buffer drops those steps (it knows them
    by the STOP in the observed path). Then all paths are scored together, in the order of the
    environments, and every environment is reset. An illegal action makes its episode worth zero;
    a path that could not be scored is marked by `info["failed"]`, see `MergePathEnv`.

    Args:
        env: Defines space, scores, scalarisation and preferences.
        num_envs: Episodes side by side.
    """

    def __init__(self, env: MergePathEnv, num_envs: int) -> None:
        self.env = env
        super().__init__(num_envs, env.observation_space, env.action_space)
        self._tokens: list[list[int]] = [[] for _ in range(num_envs)]
        self._illegal = np.zeros(num_envs, dtype=bool)
        self._preferences = np.zeros((num_envs, env.reward_dim))
        self._rng = np.random.default_rng(0)
        self._actions = np.zeros(num_envs, dtype=np.int64)
        self._step = 0

    @property
    def preferences(self) -> np.ndarray:
        """Preferences of the running episodes, shape (num_envs, K)."""
        return self._preferences.copy()

    def reset(self) -> Observation:
        """Start all episodes anew."""
        if self._seeds[0] is not None:
            self._rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._begin()
        self._reset_options()
        return self._observations()

    def _begin(self) -> None:
        self._tokens = [[] for _ in range(self.num_envs)]
        self._illegal[:] = False
        self._step = 0
        for i in range(self.num_envs):
            given = self._options[i].get("preference")
            self._preferences[i] = (
                self.env.preference_sampler(self._rng) if given is None else given
            )

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step, shape (num_envs,)."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them; scalar rewards of shape (num_envs,), vectors in the infos."""
        space, n = self.env.space, self.num_envs
        for i, action in enumerate(int(a) for a in self._actions):
            if self._tokens[i] and self._tokens[i][-1] == space.stop:
                continue  # ended, waits for the others
            self._illegal[i] = not space.mask(self._tokens[i])[action]
            self._tokens[i].append(space.stop if self._illegal[i] else action)
        self._step += 1
        infos: list[dict[str, Any]] = [
            {"vector_reward": np.zeros(self.env.reward_dim), "TimeLimit.truncated": False}
            for _ in range(n)
        ]
        rewards = np.zeros(n, dtype=np.float32)
        dones = np.full(n, self._step == space.horizon)
        if dones[0]:
            self._finish(rewards, infos)
            self._begin()
        return self._observations(), rewards, dones, infos

    def _finish(self, rewards: np.ndarray, infos: list[dict[str, Any]]) -> None:
        env = self.env
        legal = np.flatnonzero(~self._illegal)
        paths = [env.space.decode(self._tokens[i]) for i in legal]
        vectors = env.score_paths(paths) if paths else []
        for i, path, vector in zip(legal.tolist(), paths, vectors, strict=True):
            if vector is None:
                infos[i].update(path=path, failed=True)
                continue
            rewards[i] = float(env.utility(vector, path.length, self._preferences[i]))
            infos[i].update(vector_reward=np.asarray(vector, dtype=np.float64), path=path)
        last = self._observations()
        for i, info in enumerate(infos):
            info["terminal_observation"] = {key: value[i] for key, value in last.items()}
            info["preference"] = self._preferences[i].copy()
            if self._illegal[i]:
                info["illegal"] = True

    def _observations(self) -> Observation:
        rows = [
            observe(self.env.space, tokens, preference)
            for tokens, preference in zip(self._tokens, self._preferences, strict=True)
        ]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def action_masks(self) -> np.ndarray:
        """Legal actions of all episodes, boolean of shape (num_envs, num_actions)."""
        return np.stack([self._mask(i) for i in range(self.num_envs)])

    def _mask(self, i: int) -> np.ndarray:
        if self._illegal[i]:
            return np.arange(self.env.space.num_actions) == self.env.space.stop
        return self.env.space.mask(self._tokens[i])

    def close(self) -> None:
        """Nothing to release."""

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environments have an attribute."""
        return hasattr(self.env, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments."""
        value = None if attr_name == "render_mode" else getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute, for all environments at once because they share one definition."""
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call `action_masks`, the only method that differs between the episodes."""
        if method_name != "action_masks":
            raise AttributeError(f"MergePathVecEnv has no per-environment method {method_name!r}")
        return [self._mask(i) for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No wrappers inside."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Nothing to draw."""
        return [None] * self.num_envs


class VectorReward(VecEnvWrapper):
    """Passes vector rewards of shape (num_envs, K) instead of scalars.

    The length cost is taken off every objective, which leaves any weighted sum by a preference
    (weights that sum to 1) lower by exactly the cost.
    """

    def reset(self) -> Observation:
        """Reset the wrapped environment."""
        return self.venv.reset()  # type: ignore[return-value]

    def step_wait(self) -> VecEnvStepReturn:
        """Replace the scalar rewards by the vectors found in the infos."""
        observations, _, dones, infos = self.venv.step_wait()
        cost = self.venv.get_attr("utility")[0].length_cost
        vectors = np.stack(
            [
                np.asarray(info["vector_reward"])
                - (cost * info["path"].length if "path" in info else 0.0)
                for info in infos
            ]
        )
        return observations, vectors.astype(np.float32), dones, infos

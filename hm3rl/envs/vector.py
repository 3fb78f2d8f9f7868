"""Many path episodes side by side, scored in one call when the last of them has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from hm3rl.envs.path_env import Episode, Observation, PathEnv


def _rows(actions: Any) -> Iterable[Any]:
    """The single actions of a batch, which a `Dict` space holds as arrays by key."""
    if not isinstance(actions, Mapping):
        return actions
    return [
        dict(zip(actions, values, strict=True)) for values in zip(*actions.values(), strict=True)
    ]


class MergePathVecEnv(VecEnv):
    """A `PathEnv` many times side by side, with one scoring call for each batch of episodes.

    A batch lasts exactly `space.horizon` steps. An episode that ended earlier idles: its mask
    leaves STOP alone, which does nothing, and the rollout buffer drops those steps (it knows them
    by the STOP in the observed path). Then all paths are scored together, in the order of the
    environments, and every environment is reset. An illegal action makes its episode worth zero;
    a path that could not be scored is marked by `info["failed"]`, see `PathEnv`.

    Algorithms whose buffers know nothing of this want `idle=False`: episodes that end at the same
    step are scored together and begin anew at once. One without a score, failed or beyond the
    budget, is then told as truncated, so that the algorithm puts its own estimate in the place of a
    reward that nobody knows.

    Args:
        env: Defines space, scores, scalarisation and preferences.
        num_envs: Episodes side by side.
        idle: Whether episodes wait for one another.
    """

    def __init__(self, env: PathEnv, num_envs: int, idle: bool = True) -> None:
        self.env = env
        self.idle = idle
        super().__init__(num_envs, env.observation_space, env.action_space)
        self._rng = np.random.default_rng(0)
        self._actions: Any = None
        # Nobody's preferences, which `reset` draws: a sampler may be one that others draw from.
        nobody = np.zeros(env.reward_dim)
        self._episodes = [Episode(nobody) for _ in range(num_envs)]
        self._step = 0

    @property
    def preferences(self) -> np.ndarray:
        """Preferences of the running episodes, shape (num_envs, K)."""
        return np.stack([episode.preference for episode in self._episodes])

    def reset(self) -> Observation:
        """Start all episodes anew."""
        if self._seeds[0] is not None:
            self._rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._begin()
        self._reset_options()
        return self._observations()

    def _begin(self) -> None:
        self._episodes = [self.env.begin(self._rng, options) for options in self._options]
        self._step = 0

    def step_async(self, actions: Any) -> None:
        """Take the actions of the next step, a batch of num_envs; of a `Dict`, one of arrays."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them; scalar rewards of shape (num_envs,), vectors in the infos."""
        env, n = self.env, self.num_envs
        for episode, action in zip(self._episodes, _rows(self._actions), strict=True):
            env.take(episode, action)
        self._step += 1
        rewards = np.zeros(n, dtype=np.float32)
        infos: list[dict[str, Any]] = [
            {"vector_reward": np.zeros(env.reward_dim), "TimeLimit.truncated": False}
            for _ in range(n)
        ]
        observations = self._observations()
        dones = np.array([env.ended(episode) for episode in self._episodes])
        if self.idle:
            dones[:] = self._step == env.space.horizon
        ended = [int(i) for i in np.flatnonzero(dones)]
        paid = env.pay([self._episodes[i] for i in ended]) if ended else []
        for i, (reward, info) in zip(ended, paid, strict=True):
            unknown = "failed" in info or "budget_spent" in info
            rewards[i] = reward
            infos[i] = {
                **info,
                "terminal_observation": {key: row[i] for key, row in observations.items()},
                "preference": self._episodes[i].preference.copy(),
                "TimeLimit.truncated": unknown and not self.idle,
            }
            self._episodes[i] = env.begin(self._rng, self._options[i])
        if ended:
            observations = self._observations()
            self._step = 0
        return observations, rewards, dones, infos

    def _observations(self) -> Observation:
        rows = [self.env.observe(episode) for episode in self._episodes]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    def action_masks(self) -> np.ndarray:
        """Legal actions of all episodes, boolean of shape (num_envs, num_actions)."""
        return np.stack([self.env.mask(episode) for episode in self._episodes])

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
        return [self.env.mask(self._episodes[i]) for i in self._get_indices(indices)]

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

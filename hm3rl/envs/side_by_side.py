"""Many path episodes side by side as Gymnasium's own vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from hm3rl.envs.forms import DISCRETE, synthetic_merge
from hm3rl.envs.path_env import Observation, PathEnv
from hm3rl.envs.vector import MergePathVecEnv


class PathVectorEnv(gym.vector.VectorEnv[Observation, Any, np.ndarray]):
    """A `MergePathVecEnv` with the interface of `gymnasium.vector`.

    Episodes that end at the same step are scored in one call and begin anew in the same step
    (`AutoresetMode.SAME_STEP`); what their last step saw and said is in `final_obs` and
    `final_info`.

    Attributes:
        reward_space: Vector rewards of one episode, which `step` returns if the environment does.

    Args:
        env: Defines space, scores, scalarisation and preferences.
        num_envs: Episodes side by side.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, env: PathEnv, num_envs: int) -> None:
        self.env = env
        self.num_envs = num_envs
        self.episodes = MergePathVecEnv(env, num_envs, idle=False)
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self.reward_space = env.reward_space

    @property
    def unwrapped(self) -> PathEnv:  # type: ignore[override]
        """The environment whose problem and budget the episodes share."""
        return self.env

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start all episodes anew.

        Args:
            seed: Seeds the preferences; of a list the first.
            options: As of `PathEnv.reset`, for all episodes.
        """
        first = seed[0] if isinstance(seed, list) else seed
        if first is not None:
            self.episodes.seed(first)
        self.episodes.set_options(options)
        return self.episodes.reset(), {}

    def step(
        self, actions: Any
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one action in each episode; rewards of shape (num_envs,), or (num_envs, K)."""
        observations, rewards, dones, told = self.episodes.step(actions)
        if self.env.vector_rewards:
            scalars = zip(told, rewards, strict=True)
            told = [{**info, "scalar_reward": float(scalar)} for info, scalar in scalars]
            rewards = np.stack([info["vector_reward"] for info in told])
        truncated = np.array(["budget_spent" in info for info in told])
        infos: dict[str, Any] = {}
        for number, info in enumerate(told):
            last = info.pop("terminal_observation", None)
            info.pop("TimeLimit.truncated")
            found = info if last is None else {"final_obs": last, "final_info": info}
            infos = self._add_info(infos, found, number)
        return observations, rewards, dones & ~truncated, truncated, infos  # type: ignore[return-value]

    def action_masks(self) -> np.ndarray:
        """Legal actions of all episodes, boolean of shape (num_envs, num_actions)."""
        return self.episodes.action_masks()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment they share."""
        self.env.close()


def synthetic_merges(num_envs: int, form: str = DISCRETE, **options: Any) -> PathVectorEnv:
    """`hm3rl/SyntheticMerge-v0` many times side by side."""
    return PathVectorEnv(synthetic_merge(form, **options), num_envs)

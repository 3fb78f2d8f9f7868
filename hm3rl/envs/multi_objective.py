"""Path environments as those of MO-Gymnasium look, whose rewards are vectors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import Observation, PathEnv
from hm3rl.envs.synthetic import SyntheticMergeEnv
from hm3rl.envs.synthetic_blends import SyntheticBlendsEnv


class VectorRewardView(gym.Wrapper[Observation, Any, Observation, Any]):
    """A `PathEnv` with MO-Gymnasium's interface: `step` returns the vector f / z*.

    `unwrapped.reward_space` and `unwrapped.reward_dim` say what the vectors are. The scalar reward,
    length cost included, is in `info["scalar_reward"]`.

    Args:
        env: The environment.
    """

    def __init__(self, env: PathEnv) -> None:
        super().__init__(env)
        self.reward_space = env.reward_space
        self.reward_dim = env.reward_dim

    def step(self, action: Any) -> tuple[Observation, np.ndarray, bool, bool, dict[str, Any]]:
        """Take one action; the reward has shape (K,)."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "scalar_reward": reward}
        vector = np.asarray(info["vector_reward"], dtype=np.float64)
        return observation, vector, terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Legal actions now, as the environment says."""
        return np.asarray(self.env.get_wrapper_attr("action_masks")())


def merge_path_view(**options: Any) -> VectorRewardView:
    """Entry point of `hm3rl/mo-merge-path-v0`; options as `MergePathEnv`."""
    return VectorRewardView(MergePathEnv(**options))


def blend_path_view(**options: Any) -> VectorRewardView:
    """Entry point of `hm3rl/mo-blend-path-v0`; options as `BlendPathEnv`."""
    return VectorRewardView(BlendPathEnv(**options))


def synthetic_merge_view(**options: Any) -> VectorRewardView:
    """Entry point of `hm3rl/mo-synthetic-merge-v0`; options as `SyntheticMergeEnv`."""
    return VectorRewardView(SyntheticMergeEnv(**options))


def synthetic_blends_view(**options: Any) -> VectorRewardView:
    """Entry point of `hm3rl/mo-synthetic-blends-v0`; options as `SyntheticBlendsEnv`."""
    return VectorRewardView(SyntheticBlendsEnv(**options))

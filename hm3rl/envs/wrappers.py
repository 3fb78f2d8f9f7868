"""Standard views of a `PathEnv`, for algorithms that know neither masks nor dictionaries."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from hm3rl.envs.path_env import Observation, PathEnv
from hm3rl.errors import InputError
from hm3rl.paths.space import PathSpace


def most_legal(space: PathSpace) -> int:
    """Most actions that can be legal at once: stems, or the layers of one depth or of all."""
    members = len(space.members)
    return members if space.same_depth else max(members, sum(space.num_layers) + 1)


def nth_legal(mask: np.ndarray, number: int) -> int:
    """The legal action of a number; numbers beyond the last legal one begin anew.

    Args:
        mask: Legal actions, boolean of shape (A,), at least one.
        number: 0 or more.
    """
    legal = np.flatnonzero(mask)
    return int(legal[number % len(legal)])


def number_of(mask: np.ndarray, action: int) -> int:
    """The number by which `nth_legal` finds a legal action."""
    return int(np.flatnonzero(mask).searchsorted(action))


def _numbered(env: Any) -> spaces.Discrete:
    if not isinstance(env.action_space, spaces.Discrete):
        raise InputError(
            f"legal actions by number of {env.action_space}",
            "only discrete actions have numbers; blends have a form without illegal actions: "
            "form='box'",
        )
    many = isinstance(env, VecEnv)
    space = env.get_attr("space", 0)[0] if many else env.unwrapped.space
    return spaces.Discrete(most_legal(space))


class LegalActions(gym.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """Actions are numbers of legal actions, so that none is illegal.

    ## Action Space
    `Discrete(n)`, n the most actions that can be legal at once: action i is the i-th legal one, and
    where there are fewer the count begins anew (i modulo their number). With `same_depth` paths,
    whose members may all follow one another, i is member i at every step but STOP.

    Args:
        env: A `PathEnv` with discrete actions, or a wrapper of one.

    Raises:
        InputError: The actions are blends.
    """

    def __init__(self, env: gym.Env[Observation, Any]) -> None:
        RecordConstructorArgs.__init__(self)  # so that gym.make(env.spec) makes it again
        gym.Wrapper.__init__(self, env)
        self.action_space = _numbered(env)

    def step(self, action: int) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Take the legal action of a number."""
        mask = self.env.get_wrapper_attr("action_masks")()
        return self.env.step(np.int64(nth_legal(mask, int(action))))

    def action_masks(self) -> np.ndarray:
        """Numbers that name different actions now, boolean of shape (n,)."""
        legal = np.count_nonzero(self.env.get_wrapper_attr("action_masks")())
        return np.arange(self.action_space.n) < legal  # type: ignore[attr-defined]


class LegalActionsVec(VecEnvWrapper):
    """`LegalActions` over many episodes side by side.

    Args:
        venv: A `MergePathVecEnv` with discrete actions.

    Raises:
        InputError: The actions are blends.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv, action_space=_numbered(venv))

    def reset(self) -> VecEnvObs:
        """Reset the wrapped episodes."""
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the legal actions of some numbers, shape (num_envs,)."""
        masks = self.venv.env_method("action_masks")
        found = [nth_legal(mask, int(n)) for mask, n in zip(masks, actions, strict=True)]
        self.venv.step_async(np.array(found))

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them."""
        return self.venv.step_wait()


class OneHotPath(gym.ObservationWrapper[Observation, Any, Observation], RecordConstructorArgs):
    """The path's tokens one-hot instead of as numbers.

    ## Observation Space
    As before, but `path` is a `Box` in [0, 1] of shape (horizon * tokens,), a block for each action
    taken or to come, padding a token like the others. With `gymnasium.wrappers.FlattenObservation`
    around it the whole observation is one vector.

    Args:
        env: A `PathEnv`, or a wrapper of one whose observation has `path`.
    """

    def __init__(self, env: gym.Env[Observation, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        assert isinstance(env.observation_space, spaces.Dict)
        assert isinstance(env.unwrapped, PathEnv)
        space = env.unwrapped.space
        self._rows: np.ndarray = np.eye(space.pad + 1, dtype=np.float32)
        size = space.horizon * len(self._rows)
        own = {"path": spaces.Box(0.0, 1.0, (size,), np.float32)}
        self.observation_space = spaces.Dict({**env.observation_space.spaces, **own})

    def observation(self, observation: Observation) -> Observation:
        """Spell the tokens out."""
        return {**observation, "path": self._rows[observation["path"]].ravel()}

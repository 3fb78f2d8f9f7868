"""Both directions between this package and MO-Gymnasium, which has rewards that are vectors.

`VectorRewardView` shows `MergePathEnv` as MO-Gymnasium's environments look. `PreferenceEnv` shows
any of those, if its actions are discrete, to a preference-conditioned agent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hm3rl.envs.merge_path import MergePathEnv, Observation, PreferenceSampler
from hm3rl.envs.synthetic import SyntheticMergeEnv
from hm3rl.errors import InputError
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import Scalarisation, scalarise

MOST_VALUES = 256
"""Integer coordinates with at most so many values are shown one-hot."""


class VectorRewardView(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """`MergePathEnv` with MO-Gymnasium's interface: `step` returns the vector f / z*.

    `unwrapped.reward_space` and `unwrapped.reward_dim` say what the vectors are. The scalar reward,
    length cost included, is in `info["scalar_reward"]`.

    Args:
        env: The environment.
    """

    def __init__(self, env: MergePathEnv) -> None:
        super().__init__(env)
        self.reward_space = env.reward_space
        self.reward_dim = env.reward_dim

    def step(self, action: np.int64) -> tuple[Observation, np.ndarray, bool, bool, dict[str, Any]]:
        """Take one action; the reward has shape (K,)."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "scalar_reward": reward}
        vector = np.asarray(info["vector_reward"], dtype=np.float64)
        return observation, vector, terminated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Legal actions now, boolean of shape (num_actions,)."""
        return np.asarray(self.env.get_wrapper_attr("action_masks")())


def merge_path_view(**options: Any) -> VectorRewardView:
    """Entry point of `hm3rl/mo-merge-path-v0`; options as `MergePathEnv`."""
    return VectorRewardView(MergePathEnv(**options))


def synthetic_merge_view(**options: Any) -> VectorRewardView:
    """Entry point of `hm3rl/mo-synthetic-merge-v0`; options as `SyntheticMergeEnv`."""
    return VectorRewardView(SyntheticMergeEnv(**options))


def flat_features(space: spaces.Space[Any]) -> tuple[int, Callable[[Any], np.ndarray]]:
    """How observations of a space become flat features.

    Integers with few values are one-hot, because a number that names a place or a node says little
    as a magnitude; bounded floats are scaled to [-1, 1].

    Args:
        space: Box, Discrete, MultiDiscrete or MultiBinary.

    Returns:
        Number of features, and the function that computes them, float32 of that shape.

    Raises:
        InputError: Another kind of space.
    """
    if isinstance(space, spaces.Discrete):
        return _one_hot(np.array([space.start]), np.array([space.n]))
    if isinstance(space, spaces.MultiDiscrete):
        return _one_hot(space.start.ravel(), space.nvec.ravel())
    if isinstance(space, spaces.MultiBinary):
        return int(np.prod(space.shape)), lambda seen: np.asarray(seen, dtype=np.float32).ravel()
    if not isinstance(space, spaces.Box):
        raise InputError(
            f"observations of kind {type(space).__name__} have no flat form here",
            "wrap the environment so that it shows a Box, Discrete, MultiDiscrete or MultiBinary",
        )
    low, high = (np.asarray(bound, dtype=np.float64).ravel() for bound in (space.low, space.high))
    with np.errstate(over="ignore"):
        width = high - low
    if np.issubdtype(space.dtype, np.integer) and (width < MOST_VALUES).all():
        return _one_hot(low.astype(np.int64), width.astype(np.int64) + 1)
    bounded = np.isfinite(width) & (width > 0)
    shift = np.where(bounded, low, 0.0)
    factor = np.divide(2.0, width, out=np.ones_like(width), where=bounded)
    offset = np.where(bounded, 1.0, 0.0)

    def scaled(seen: Any) -> np.ndarray:
        flat = np.asarray(seen, dtype=np.float64).ravel()
        return ((flat - shift) * factor - offset).astype(np.float32)

    return len(low), scaled


def _one_hot(start: np.ndarray, counts: np.ndarray) -> tuple[int, Callable[[Any], np.ndarray]]:
    begin = np.concatenate([[0], np.cumsum(counts)[:-1]]) - start
    total = int(counts.sum())

    def encode(seen: Any) -> np.ndarray:
        out = np.zeros(total, dtype=np.float32)
        out[begin + np.asarray(seen, dtype=np.int64).ravel()] = 1.0
        return out

    return total, encode


class PreferenceEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An MO-Gymnasium environment with a preference for every episode.

    ## Observation Space
    `Dict`: `state` (flat features, see `flat_features`), `preference` (K). For a utility that is
    not linear the state ends with the vector accrued so far and the current discount, because what
    is best to do depends on what one has.

    ## Action Space
    The environment's, `Discrete`; `action_masks()` is the environment's, or allows everything.

    ## Reward
    Vectors are divided by `scale`. Linear utility: lambda . r at each step, to be discounted by the
    agent. Any other: 0 until the end, then u_lambda of the discounted return, to be taken as it is.
    `info["vector_reward"]` is the scaled vector, `info["mask"]` the mask under which the action was
    chosen, and at the end `info["vector_return"]` the discounted return in the environment's units.

    ## Termination
    As the environment; a time limit counts as an end, because a vector has no bootstrap value.

    Args:
        env: Its `unwrapped.reward_space` says how many objectives there are.
        gamma: Discount of the returns, in (0, 1].
        scalarisation: u_lambda.
        scale: Units of the objectives: a number, which leaves linear preferences as they are, or
            shape (K,), which means preferences over scaled objectives.
        utopia: z of Tchebycheff, in scaled units, a number or shape (K,).
        rho: Augmentation of Tchebycheff, see `tchebycheff`.
        preference_sampler: Draws a preference at reset; default is uniform on the simplex.

    Raises:
        InputError: The environment's actions are not discrete, it does not say what its rewards
            are, or a number is out of its range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        gamma: float = 0.99,
        scalarisation: Scalarisation = "weighted_sum",
        scale: float | np.ndarray = 1.0,
        utopia: float | np.ndarray = 1.1,
        rho: float = 0.05,
        preference_sampler: PreferenceSampler | None = None,
    ) -> None:
        super().__init__(env)
        if not isinstance(env.action_space, spaces.Discrete):
            raise InputError(
                f"the agent needs discrete actions, {env} has {env.action_space}",
                "wrap the environment so that its actions are Discrete",
            )
        reward_space = getattr(env.unwrapped, "reward_space", None)
        if reward_space is None or len(reward_space.shape) != 1:
            raise InputError(
                f"{env} has no vector-valued reward_space", "give an environment of MO-Gymnasium"
            )
        if not 0.0 < gamma <= 1.0:
            raise InputError(f"gamma={gamma}", "use a discount in (0, 1]")
        self.reward_dim = k = int(reward_space.shape[0])
        self.gamma = gamma
        self.scalarisation: Scalarisation = scalarisation
        self.scale = np.broadcast_to(np.asarray(scale, dtype=np.float64), (k,))
        if not (self.scale > 0).all():
            raise InputError(f"scale={scale}", "use positive units")
        self.utopia = np.broadcast_to(np.asarray(utopia, dtype=np.float64), (k,))
        self.rho = rho
        self.preference_sampler: PreferenceSampler = preference_sampler or (
            lambda rng: sample_dirichlet(1, k, rng)[0]
        )
        width, self._features = flat_features(env.observation_space)
        if not self.linear:
            width += k + 1
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(-np.inf, np.inf, shape=(width,), dtype=np.float32),
                "preference": spaces.Box(0.0, 1.0, shape=(k,), dtype=np.float32),
            }
        )
        get_masks = env.get_wrapper_attr("action_masks") if has_masks(env) else None
        self._masks: Callable[[], np.ndarray] | None = get_masks
        self._all = np.ones(int(env.action_space.n), dtype=bool)
        self._rng = np.random.default_rng()
        self._begin(np.full(k, 1.0 / k))

    @property
    def linear(self) -> bool:
        """Whether the utility is a weighted sum."""
        return self.scalarisation == "weighted_sum"

    def _begin(self, preference: np.ndarray) -> None:
        self.preference = preference
        self._accrued = np.zeros(self.reward_dim)
        self._discount = 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the environment and the preference sampler.
            options: `{"preference": array of shape (K,)}` fixes the preference of this episode;
                the rest goes to the environment.
        """
        rest = dict(options or {})
        given = rest.pop("preference", None)
        observation, info = self.env.reset(seed=seed, options=rest or None)
        if seed is not None:
            # A stream of its own, so that the preferences do not follow the environment's draws.
            self._rng = np.random.default_rng([seed, 1])
        drawn = self.preference_sampler(self._rng) if given is None else given
        self._begin(np.asarray(drawn, dtype=np.float64))
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        mask = self.action_masks()
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        vector = np.asarray(reward, dtype=np.float64) / self.scale
        self._accrued += self._discount * vector
        self._discount *= self.gamma
        ended = bool(terminated or truncated)
        info = {**info, "vector_reward": vector, "mask": mask}
        utility = 0.0
        if self.linear:
            utility = float(vector @ self.preference)
        elif ended:
            utility = float(self.utility(self._accrued, self.preference))
        if ended:
            info["vector_return"] = self._accrued * self.scale
            info["preference"] = self.preference
        return self._observe(observation), utility, ended, False, info

    def utility(self, vectors: np.ndarray, preferences: np.ndarray) -> np.ndarray:
        """u_lambda of scaled returns, shapes (..., K) -> (...)."""
        return scalarise(vectors, preferences, self.scalarisation, self.utopia, self.rho)

    def action_masks(self) -> np.ndarray:
        """Legal actions now, boolean of shape (actions,)."""
        return self._all if self._masks is None else np.asarray(self._masks(), dtype=bool)

    def _observe(self, observation: Any) -> Observation:
        state = self._features(observation)
        if not self.linear:
            state = np.concatenate([state, self._accrued, [self._discount]]).astype(np.float32)
        return {"state": state, "preference": self.preference.astype(np.float32)}


def has_masks(env: gym.Env[Any, Any]) -> bool:
    """Whether an environment, or one it wraps, says which actions are legal."""
    return bool(env.has_wrapper_attr("action_masks"))

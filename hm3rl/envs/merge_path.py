"""The construction of an inference path as a Markov decision process (HM3, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hm3rl.envs.space import PathSpace
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import Scalarisation
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath

ScorePaths = Callable[[list[LayerPath]], "np.ndarray | Iterable[np.ndarray | None]"]
"""Scores complete paths: n paths -> array of shape (n, K), task scores divided by z*, or as many
vectors of shape (K,), None for a path that could not be scored."""

PreferenceSampler = Callable[[np.random.Generator], np.ndarray]
"""Draws one preference of shape (K,)."""

Observation = dict[str, np.ndarray]

FEATURE_BOUND = 1e6
"""Bound of features in the observation space; they are of order one, checkers want it finite."""


def observation_space(space: PathSpace, objectives: int) -> spaces.Dict:
    """Observations of a path space.

    Context and descriptors are flat, because Stable-Baselines3 takes arrays of two or three
    dimensions for pictures.
    """

    def floats(size: int) -> spaces.Box:
        return spaces.Box(-FEATURE_BOUND, FEATURE_BOUND, shape=(size,), dtype=np.float32)

    return spaces.Dict(
        {
            "path": spaces.Box(0, space.pad, shape=(space.horizon,), dtype=np.int64),
            "length": spaces.Box(0, space.horizon, shape=(1,), dtype=np.int64),
            "context": floats(space.context.size),
            "descriptors": floats(space.descriptors.size),
            "preference": spaces.Box(0.0, 1.0, shape=(objectives,), dtype=np.float32),
        }
    )


def observe(space: PathSpace, tokens: list[int], preference: np.ndarray) -> Observation:
    """What an agent sees after the actions `tokens` under a preference."""
    return {
        "path": space.pad_tokens(tokens),
        "length": np.array([len(tokens)], dtype=np.int64),
        "context": space.context.astype(np.float32).ravel(),
        "descriptors": space.descriptors.astype(np.float32).ravel(),
        "preference": np.asarray(preference, dtype=np.float32),
    }


class MergePathEnv(gym.Env[Observation, np.int64]):
    """Builds one inference path, stem first, then layers, then STOP, and is paid for its scores.

    ## Description
    A state is the path so far, together with the members offered and the preference of this
    episode. Episodes terminate and are never truncated.

    ## Observation Space
    `Dict`: `path` (action numbers, padded), `length` (actions taken), `context` (recipe features of
    the members, flat M*R), `descriptors` (layer descriptors, flat M*L*D), `preference` (K).

    ## Action Space
    `Discrete(M + M*L + 1)`: the first M choose the stem and are legal at the first step only;
    M + m*L + l appends layer l of member m; the last is STOP. `action_masks()` says what is legal.

    ## Reward
    0 until STOP, then u_lambda(f / z*) - beta_1 * T (HM3 equation (9)); the vector f / z* is in
    `info["vector_reward"]`. An illegal action ends the episode with a zero vector,
    `info["illegal"]` is True, and nothing is scored. A path that could not be scored has no reward:
    `info["failed"]` is True, the zeros beside it mean nothing, and who learns from rewards should
    leave the episode out (the agent's PPO does, see `hm3rl.agents.buffer`).

    ## Starting State
    The empty path and a preference drawn by the sampler, or `options={"preference": ...}`.

    Args:
        space: Legal paths and what is known of the members.
        score_paths: Scores complete paths.
        objectives: K.
        scalarisation: u_lambda.
        length_cost: beta_1, for each layer of the path.
        preference_sampler: Draws a preference at reset; default is uniform on the simplex.
        utopia: z of the Tchebycheff utility, the same for every objective, in units of f / z*.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration is an instance one)

    def __init__(
        self,
        space: PathSpace,
        score_paths: ScorePaths,
        objectives: int,
        scalarisation: Scalarisation = "weighted_sum",
        length_cost: float = 0.0,
        preference_sampler: PreferenceSampler | None = None,
        utopia: float = 1.1,
    ) -> None:
        self.space = space
        self.score_paths = score_paths
        self.utility = Utility(scalarisation, length_cost, utopia)
        self.reward_dim = objectives
        self.reward_space = spaces.Box(-np.inf, np.inf, shape=(objectives,), dtype=np.float64)
        self.observation_space = observation_space(  # type: ignore[assignment]
            space, objectives
        )
        self.action_space = spaces.Discrete(space.num_actions)
        self.preference_sampler: PreferenceSampler = preference_sampler or (
            lambda rng: sample_dirichlet(1, objectives, rng)[0]
        )
        self._tokens: list[int] = []
        self._preference = np.full(objectives, 1.0 / objectives)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an empty path.

        Args:
            seed: Seeds the preference sampler.
            options: `{"preference": array of shape (K,)}` fixes the preference of this episode.
        """
        super().reset(seed=seed)
        if options and "preference" in options:
            self._preference = np.asarray(options["preference"], dtype=np.float64)
        else:
            self._preference = self.preference_sampler(self.np_random)
        self._tokens = []
        return self._observation(), {}

    def action_masks(self) -> np.ndarray:
        """Legal actions now, boolean of shape (num_actions,)."""
        return self.space.mask(self._tokens)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one action; scores the path when it is STOP."""
        chosen = int(action)
        zero = np.zeros(self.reward_dim)
        if not self.action_masks()[chosen]:
            return self._observation(), 0.0, True, False, {"vector_reward": zero, "illegal": True}
        self._tokens.append(chosen)
        if chosen != self.space.stop:
            return self._observation(), 0.0, False, False, {"vector_reward": zero}
        path = self.space.decode(self._tokens)
        (scored,) = self.score_paths([path])
        if scored is None:
            failed = {"vector_reward": zero, "path": path, "failed": True}
            return self._observation(), 0.0, True, False, failed
        vector = np.asarray(scored, dtype=np.float64)
        reward = float(self.utility(vector, path.length, self._preference))
        info = {"vector_reward": vector, "path": path}
        return self._observation(), reward, True, False, info

    def _observation(self) -> Observation:
        return observe(self.space, self._tokens, self._preference)

"""RMM's decision process: a cursor walks through the depths and a member's layer is taken at each.

Reinforced Model Merging (Han et al., arXiv 2503.21272): at depth l the agent appends layer l of one
of the models and moves on, or moves on without a layer (skip), or moves back (what was appended
stays, so going over a depth again repeats it). The episode ends behind the last depth; its model is
scored then. The state is how often each layer was taken, an L x M table.

What differs from the paper and its code, and why:

- the state also says where the cursor stands (after a skip the table alone does not), whose the
  stem is, and the preference, which the paper's single reward does not need;
- the first action chooses the stem, because who lends the embedding matters here;
- illegal moves are masked (`action_masks`) instead of punished with -10: going back from the first
  depth, and whatever would break the path limits or C4;
- episodes are bounded: moving back is masked when the steps left would no longer reach the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from hm3rl.envs.space import PathSpace
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath

ROUNDS = 3
"""Most steps of an episode, in walks through all depths."""

ScoreSome = Callable[[list[LayerPath]], Sequence[np.ndarray | None]]
"""Scores paths, f / z* each; None for those that failed or that the budget did not cover."""


class Cursor:
    """One episode.

    Actions: 0 .. M-1 take a member's layer (at the first step: its stem), M skips, M+1 goes back.

    Args:
        space: Legal paths.
    """

    def __init__(self, space: PathSpace) -> None:
        self.space = space
        self.tokens: list[int] = []
        self.depth = 0
        self.steps = 0
        self.taken = np.zeros((space.depth, len(space.members)), np.float32)

    @property
    def ended(self) -> bool:
        """Whether the cursor has left the last depth behind."""
        return self.depth == self.space.depth

    @property
    def path(self) -> LayerPath | None:
        """The path of an ended episode; None if it breaks the limits.

        Masks rule that out where all members have the same layers; where they do not, a depth may
        have nothing to offer and the path end up too short.
        """
        row = [*self.tokens, self.space.stop]
        if len(row) > self.space.horizon or not self.space.is_legal(self.space.pad_tokens(row)):
            return None
        return self.space.decode(row)

    def mask(self) -> np.ndarray:
        """Legal actions, boolean of shape (M + 2,)."""
        space, count = self.space, len(self.space.members)
        legal = np.zeros(count + 2, dtype=bool)
        if not self.tokens:
            legal[:count] = space.mask([])[:count]
            return legal
        length = len(self.tokens) - 1
        to_come = space.depth - self.depth
        follows = space.can_follow[space.token_member[self.tokens[-1]]]
        has_layer = np.asarray(space.num_layers) > self.depth
        legal[:count] = has_layer & follows & (length < space.max_length)
        if not space.same_depth:
            legal[count] = length + to_come - 1 >= space.min_length
            enough = self.steps + 1 + to_come + 1 <= ROUNDS * space.depth
            legal[count + 1] = self.depth > 0 and enough
        if not legal.any():
            legal[count] = True
        return legal

    def act(self, action: int) -> None:
        """Take a legal action."""
        space, count = self.space, len(self.space.members)
        if not self.tokens:
            self.tokens.append(action)
            return
        self.steps += 1
        if action < count:
            self.tokens.append(space.layer_action(action, self.depth))
            self.taken[self.depth, action] += 1
        self.depth += -1 if action == count + 1 else 1

    def observe(self, preference: np.ndarray) -> np.ndarray:
        """Table of layers taken, cursor, stem, preference: float32 of shape (size,)."""
        here = np.zeros(self.space.depth + 1, np.float32)
        here[self.depth] = 1.0
        stem = np.zeros(len(self.space.members), np.float32)
        stem[self.tokens[:1]] = 1.0
        return np.concatenate([self.taken.ravel(), here, stem, preference], dtype=np.float32)


class CursorVecEnv(VecEnv):
    """Episodes side by side; those that end at the same step are scored in one call.

    ## Observation Space
    `Box`, shape (L*M + L + 1 + M + K,): see `Cursor.observe`.

    ## Action Space
    `Discrete(M + 2)`; `action_masks()` says what is legal.

    ## Reward
    0, and u_lambda(f / z*) at the end; 0 for a path beyond the limits. A path that has no score has
    no reward: `info["failed"]` is True, and its episode is to be left out of what is learnt from.

    Args:
        space: Legal paths.
        score: Scores ended paths.
        utility: u_lambda.
        objectives: K.
        draw: Draws the preference of an episode, shape (K,).
        num_envs: Episodes side by side.
    """

    def __init__(
        self,
        space: PathSpace,
        score: ScoreSome,
        utility: Utility,
        objectives: int,
        draw: Callable[[], np.ndarray],
        num_envs: int,
    ) -> None:
        self.space = space
        self.score = score
        self.utility = utility
        self.draw = draw
        size = Cursor(space).observe(np.zeros(objectives)).shape
        super().__init__(
            num_envs,
            spaces.Box(0.0, float(ROUNDS * space.depth), size, np.float32),
            spaces.Discrete(len(space.members) + 2),
        )
        self._cursors: list[Cursor] = []
        self._preferences: list[np.ndarray] = []
        self._actions = np.zeros(num_envs, dtype=np.int64)

    def reset(self) -> np.ndarray:
        """Start all episodes anew."""
        self._cursors = [Cursor(self.space) for _ in range(self.num_envs)]
        self._preferences = [self.draw() for _ in range(self.num_envs)]
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the next step, shape (num_envs,)."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them and score the paths that are complete."""
        for cursor, action in zip(self._cursors, self._actions, strict=True):
            cursor.act(int(action))
        dones = np.array([cursor.ended for cursor in self._cursors])
        rewards = np.zeros(self.num_envs, dtype=np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        last = self._observations()
        ended = [int(i) for i in np.flatnonzero(dones)]
        paths = {i: path for i in ended if (path := self._cursors[i].path) is not None}
        scores = self.score(list(paths.values())) if paths else []
        for (i, path), vector in zip(paths.items(), scores, strict=True):
            if vector is None:
                infos[i]["failed"] = True
            else:
                rewards[i] = float(self.utility(vector, path.length, self._preferences[i]))
        for i in ended:
            infos[i]["terminal_observation"] = last[i]
            self._cursors[i], self._preferences[i] = Cursor(self.space), self.draw()
        return self._observations(), rewards, dones, infos

    def action_masks(self) -> np.ndarray:
        """Legal actions of all episodes, boolean of shape (num_envs, M + 2)."""
        return np.stack([cursor.mask() for cursor in self._cursors])

    def _observations(self) -> np.ndarray:
        pairs = zip(self._cursors, self._preferences, strict=True)
        return np.stack([cursor.observe(preference) for cursor, preference in pairs])

    def close(self) -> None:
        """Nothing to release."""

    def has_attr(self, attr_name: str) -> bool:
        """Whether the episodes have an attribute; sb3-contrib looks for `action_masks`."""
        return hasattr(self, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute, the same for all episodes."""
        value = None if attr_name == "render_mode" else getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute, for all episodes at once."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call `action_masks`, the only method that differs between the episodes."""
        if method_name != "action_masks":
            raise AttributeError(f"CursorVecEnv has no per-episode method {method_name!r}")
        return [self._cursors[i].mask() for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """No wrappers inside."""
        return [False for _ in self._get_indices(indices)]

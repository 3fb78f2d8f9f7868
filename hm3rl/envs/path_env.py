"""What all environments that build inference paths share: episodes, legality, scoring, reward."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace

LOG = logging.getLogger(__name__)


class Unscored(Enum):
    """Why a path has no score although nothing is wrong with it."""

    BUDGET = "budget"


ScorePaths = Callable[[list[LayerPath]], "np.ndarray | Iterable[np.ndarray | Unscored | None]"]
"""Scores complete paths: n paths -> array of shape (n, K), task scores divided by z*, or as many
vectors of shape (K,), None for a path that could not be scored, `Unscored.BUDGET` for one that the
budget does not cover."""

PreferenceSampler = Callable[[np.random.Generator], np.ndarray]
"""Draws one preference of shape (K,)."""

Observation = dict[str, np.ndarray]


@dataclass
class Episode:
    """One path in the making.

    Attributes:
        preference: Shape (K,).
        tokens: Actions taken, as the environment's path space numbers them; an episode has ended
            when the last is STOP, which an illegal action is turned into.
        blends: Blends chosen, each of shape (N,); none where layers are members'.
        illegal: Whether an illegal action ended it.
    """

    preference: np.ndarray
    tokens: list[int] = field(default_factory=list)
    blends: list[np.ndarray] = field(default_factory=list)
    illegal: bool = False


class PathEnv(gym.Env[Observation, Any], ABC):
    """Builds one inference path by actions, then STOP, and is paid for its scores.

    ## Reward
    0 until STOP, then u_lambda(f / z*) - beta_1 * T (HM3 equation (9)); the vector f / z* is in
    `info["vector_reward"]`, the path in `info["path"]`. An illegal action ends the episode with a
    zero vector, `info["illegal"]` is True, and nothing is scored. A path that could not be scored
    has no reward: `info["failed"]` is True, the zeros beside it mean nothing, and who learns from
    rewards should leave the episode out (the agent's PPO does, see `hm3rl.agents.buffer`).

    ## Starting State
    The empty path and a preference drawn by the sampler, or `options={"preference": ...}`. The info
    of `reset` says how many `episodes` have ended so far, and how many of them illegally
    (`illegal_episodes`); the log says so at the first, the tenth, the hundredth, ...

    ## Episode End
    Episodes terminate. One is truncated, without reward and with `info["budget_spent"]`, if its
    path is new and the budget of evaluations is spent; paths scored before stay free.

    Attributes:
        vector_rewards: Whether `step` returns the vector f / z* in the reward's place, shape (K,),
            as MO-Gymnasium has it (`reward_space`, `reward_dim`); the reward, length cost included,
            is then in `info["scalar_reward"]`.
        episodes: Episodes that have ended so far.
        illegal_episodes: Those that an illegal action ended.

    Args:
        space: Which actions are legal, and how they are numbered in observations.
        features: Observations beside `path`, `length` and `preference`.
        actions: The action space.
        score_paths: Scores complete paths.
        objectives: K.
        utility: u_lambda, with beta_1.
        preference_sampler: Draws a preference at reset; default is uniform on the simplex.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration is an instance one)

    def __init__(
        self,
        space: PathSpace,
        features: Mapping[str, spaces.Space[Any]],
        actions: spaces.Space[Any],
        score_paths: ScorePaths,
        objectives: int,
        utility: Utility,
        preference_sampler: PreferenceSampler | None,
    ) -> None:
        self.space = space
        self.score_paths = score_paths
        self.utility = utility
        self.reward_dim = objectives
        self.reward_space = spaces.Box(-np.inf, np.inf, shape=(objectives,), dtype=np.float64)
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {
                "path": spaces.Box(0, space.pad, shape=(space.horizon,), dtype=np.int64),
                "length": spaces.Box(0, space.horizon, shape=(1,), dtype=np.int64),
                "preference": spaces.Box(0.0, 1.0, shape=(objectives,), dtype=np.float32),
                **features,
            }
        )
        self.action_space = actions
        self.preference_sampler: PreferenceSampler = preference_sampler or partial(
            _uniform, objectives
        )
        self.vector_rewards = False
        self.episodes = self.illegal_episodes = 0
        self._episode = Episode(np.full(objectives, 1.0 / objectives))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an empty path.

        Args:
            seed: Seeds the preference sampler.
            options: `{"preference": array of shape (K,)}` fixes the preference of this episode.
        """
        super().reset(seed=seed)
        self._episode = self.begin(self.np_random, options or {})
        counts = {"episodes": self.episodes, "illegal_episodes": self.illegal_episodes}
        return self.observe(self._episode), counts

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Take one action; scores the path when it is STOP."""
        self.take(self._episode, action)
        ended = self.ended(self._episode)
        reward: float | np.ndarray = 0.0
        info: dict[str, Any] = {"vector_reward": np.zeros(self.reward_dim)}
        if ended:
            ((reward, info),) = self.pay([self._episode])
        truncated = "budget_spent" in info
        if self.vector_rewards:
            info = {**info, "scalar_reward": reward}
            reward = info["vector_reward"].copy()  # MO-Gymnasium's wrappers write into it
        return self.observe(self._episode), reward, ended and not truncated, truncated, info

    def action_masks(self) -> np.ndarray:
        """Legal actions now, see `mask`."""
        return self.mask(self._episode)

    def begin(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Episode:
        """An empty path under the preference of the options, or one that is drawn."""
        given = options.get("preference")
        preference = self.preference_sampler(rng) if given is None else given
        return Episode(np.array(preference, dtype=np.float64))

    def ended(self, episode: Episode) -> bool:
        """Whether an episode is over."""
        return episode.tokens[-1:] == [self.space.stop]

    def mask(self, episode: Episode) -> np.ndarray:
        """Legal actions of an episode, boolean of shape (space.num_actions,).

        STOP alone, which then does nothing, once it has ended.
        """
        return self.space.mask(episode.tokens)

    def take(self, episode: Episode, action: Any) -> None:
        """Take one action, the number of a token; nothing happens once the episode has ended."""
        if self.ended(episode):
            return
        token = int(action)
        episode.illegal = not self.space.mask(episode.tokens)[token]
        episode.tokens.append(self.space.stop if episode.illegal else token)

    @abstractmethod
    def path(self, episode: Episode) -> LayerPath:
        """The path of an episode that ended legally."""

    @abstractmethod
    def action_on(self, path: LayerPath, episode: Episode) -> Any:
        """The action by which an episode that has followed a path so far goes on following it.

        Args:
            path: One that the environment offers (`offers`).
            episode: Not ended.
        """

    @abstractmethod
    def offers(self, path: LayerPath) -> bool:
        """Whether an episode can end in a path, or in one that is the same model by construction.

        Sources are blends, so in an environment over blends theirs are spelled otherwise.
        """

    def observe(self, episode: Episode) -> Observation:
        """What an agent sees of an episode."""
        return {
            "path": self.space.pad_tokens(episode.tokens),
            "length": np.array([len(episode.tokens)], dtype=np.int64),
            "preference": np.asarray(episode.preference, dtype=np.float32),
        }

    def pay(self, episodes: Sequence[Episode]) -> list[tuple[float, dict[str, Any]]]:
        """Rewards and infos of episodes that have ended, their paths scored in one call."""
        paid: list[tuple[float, dict[str, Any]]] = [
            (0.0, {"vector_reward": np.zeros(self.reward_dim), "illegal": True}) for _ in episodes
        ]
        legal = [i for i, episode in enumerate(episodes) if not episode.illegal]
        self._count(len(episodes), len(episodes) - len(legal))
        paths = [self.path(episodes[i]) for i in legal]
        vectors = self.score_paths(paths) if paths else []
        for i, path, scored in zip(legal, paths, vectors, strict=True):
            if scored is None or isinstance(scored, Unscored):
                why = "failed" if scored is None else "budget_spent"
                nothing = {"vector_reward": np.zeros(self.reward_dim), "path": path, why: True}
                paid[i] = 0.0, nothing
                continue
            vector = np.asarray(scored, dtype=np.float64)
            reward = float(self.utility(vector, path.length, episodes[i].preference))
            paid[i] = reward, {"vector_reward": vector, "path": path}
        return paid

    def _count(self, ended: int, illegal: int) -> None:
        """Count episodes; say it when those that ended illegally have become ten times as many."""
        before = self.illegal_episodes
        self.episodes += ended
        self.illegal_episodes += illegal
        if illegal and (not before or len(str(self.illegal_episodes)) > len(str(before))):
            LOG.warning(
                "%d of %d episodes ended with an illegal action, which scores nothing: choose "
                "among action_masks(), or wrap it in hm3rl.envs.wrappers.LegalActions",
                *(self.illegal_episodes, self.episodes),
            )


def _uniform(objectives: int, rng: np.random.Generator) -> np.ndarray:
    """A preference, uniform on the simplex; a function by name, so that environments pickle."""
    return sample_dirichlet(1, objectives, rng)[0]

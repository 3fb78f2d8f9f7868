"""Any algorithm of Stable-Baselines3 or sb3-contrib as an agent: `agent=sb3`.

The algorithm runs its own loop; a completed path that nobody asked for before is an evaluation, and
a known one costs nothing and is paid its known score. So its budget is spent on new paths alone,
however often it walks old ones.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from hm3rl.agents.base import Agent, Space
from hm3rl.agents.batches import ROLLOUT
from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.sb3_learner import (
    build_learner,
    check_options,
    find_algorithm,
    is_blended,
    is_masked,
)
from hm3rl.config.agents import SB3Settings
from hm3rl.config.schema import RunSettings
from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import Episode, Observation, PathEnv, Unscored
from hm3rl.envs.wrappers import nth_legal, number_of
from hm3rl.objectives.utility import Utility
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics, Outcome

LOG = logging.getLogger(__name__)

RANDOM = "random"
"""Who chose a path that was evaluated because the algorithm walked known ones only."""

WEIGHTS = "policy."


class SB3Agent(Agent[Space]):
    """Trains one algorithm on path episodes under drawn preferences, which it observes.

    Algorithms that replay what they saw begin with the stored paths, walked under preferences of
    their own; others cannot learn from paths that they did not choose.

    Args:
        space: The paths there are, of members or of blends.
        objectives: Names of the K objectives.
        settings: The run.
    """

    def __init__(self, space: Space, objectives: Sequence[str], settings: RunSettings) -> None:
        super().__init__(space, objectives, settings)
        self.options = cast(SB3Settings, settings.agent)
        self.seconds = 0.0
        self.env = _environment(space, self._score, len(self.objectives), settings)
        self._masked = is_masked(find_algorithm(self.options.algorithm))
        self._rng = np.random.default_rng(settings.seed)
        self._outcomes: dict[LayerPath, Outcome] = {}
        self._evaluate: EvaluatePaths | None = None
        self._log: LogMetrics = lambda values: None
        self._room = self._repeats = 0
        self._exhausted = False
        self._generators = GeneratorScope(settings.seed)
        with self._generators.scope():
            self.learner = build_learner(self.env, self.options, settings.seed)

    @classmethod
    def walks_blends(cls, settings: RunSettings) -> bool:
        """Whether the algorithm's actions are blends."""
        return is_blended(cast(SB3Settings, settings.agent))

    @classmethod
    def check(cls, settings: RunSettings, began: bool) -> None:
        """Refuse what the algorithm does not take; see `Agent.check`."""
        options = cast(SB3Settings, settings.agent)
        check_options(options)
        blended = is_blended(options)
        space = BlendSpace(("one", "other"), 2) if blended else _small()
        env = _environment(space, lambda paths: [], 2, settings)
        with GeneratorScope(0).scope():
            build_learner(env, options, 0)

    # --- learning -----------------------------------------------------------------------------

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """The same as `online`: these algorithms choose by themselves what they learn from."""
        self.online(evaluate, budget, log)

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Train until the budget is spent; see `Agent.online`.

        After `agent.stale` episodes in a row without a new path random new ones are evaluated in
        their place, and counted as such (`chosen_by`).
        """
        self._evaluate, self._room, self._log = evaluate, budget, log
        # Schedules, such as that of exploration, run over the whole search.
        planned = self.settings.planned_budget or self.settings.budget
        steps = planned * self.env.space.horizon
        try:
            with self._working():
                while self._room and not self._exhausted:
                    self.learner.learn(
                        steps,
                        callback=_Budget(self._goes_on),
                        log_interval=None,  # type: ignore[arg-type]
                        reset_num_timesteps=self.learner.num_timesteps == 0,
                    )
        finally:
            self._evaluate = None

    def learn(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Remember scores; algorithms with a replay buffer learn from them."""
        self.observe(paths, outcomes)
        if isinstance(self.learner, OffPolicyAlgorithm):
            with self._working():
                for path, outcome in zip(paths, outcomes, strict=True):
                    if outcome.ok:
                        self._demonstrate(path, outcome)

    def observe(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Remember scores, so that the paths cost nothing when they are walked."""
        self._outcomes.update(zip(paths, outcomes, strict=True))

    def _score(self, paths: list[LayerPath]) -> list[np.ndarray | Unscored | None]:
        """Scores of the paths of episodes that ended together."""
        new = [path for path in dict.fromkeys(paths) if path not in self._outcomes][: self._room]
        if new:
            self._ask(new, ROLLOUT)
            self._repeats = 0
            said = self.learner.logger.name_to_value
            losses = {name: float(said[name]) for name in said if name.startswith("train/")}
            self._log({"episodes": float(self.env.episodes), **losses})
        else:
            self._repeats += len(paths)
        return [self._known_score(path) for path in paths]

    def _ask(self, paths: list[LayerPath], maker: str) -> list[Outcome]:
        assert self._evaluate is not None
        with self._generators.outside():
            before = time.perf_counter()
            outcomes = self._evaluate(paths, [maker] * len(paths))
            self.seconds -= time.perf_counter() - before
        self.observe(paths, outcomes)
        self._known.update(paths)
        self._room -= len(paths)
        return outcomes

    def _known_score(self, path: LayerPath) -> np.ndarray | Unscored | None:
        outcome = self._outcomes.get(path)
        if outcome is None:
            return Unscored.BUDGET
        return outcome.vector if outcome.ok else None

    def _goes_on(self) -> bool:
        """Whether there is budget left; asked after each step of the episodes."""
        if self._room and self._repeats >= self.options.stale:
            self._repeats = 0
            paths = self._random(min(self.options.envs, self._room), self._rng)
            if paths:
                LOG.info("%d episodes in a row were known: random paths", self.options.stale)
                self.learn(paths, self._ask(paths, RANDOM))
            else:
                self._exhausted = True
                LOG.warning(
                    "there is no path left that was not evaluated: %d evaluations are not used",
                    self._room,
                )
        return bool(self._room) and not self._exhausted

    def _demonstrate(self, path: LayerPath, outcome: Outcome) -> None:
        """Put the episodes of a known path into the replay buffer, under drawn preferences."""
        buffer = cast(OffPolicyAlgorithm, self.learner).replay_buffer
        assert isinstance(buffer, DictReplayBuffer)
        env = self.env
        episodes = [env.begin(self._rng, {}) for _ in range(self.options.envs)]
        worth = [env.utility(outcome.vector, path.length, one.preference) for one in episodes]
        before = _stacked(env, episodes)
        while not env.ended(episodes[0]):
            action, taken = self._action_of(path, episodes[0])
            for episode in episodes:
                env.take(episode, taken)
            done = env.ended(episodes[0])
            after = _stacked(env, episodes)
            buffer.add(
                before,
                after,
                np.repeat(action[None], len(episodes), axis=0),
                np.array(worth, np.float32) if done else np.zeros(len(episodes), np.float32),
                np.full(len(episodes), done),
                [{} for _ in episodes],
            )
            before = after

    def _action_of(self, path: LayerPath, episode: Episode) -> tuple[np.ndarray, Any]:
        """The next action on a path, as the algorithm and as the environment see it."""
        taken = self.env.action_on(path, episode)
        if isinstance(self.env, BlendPathEnv):
            return taken, taken
        number = taken if self._masked else number_of(self.env.mask(episode), taken)
        return np.array([number]), taken

    # --- use ----------------------------------------------------------------------------------

    def propose(self, count: int, preference: np.ndarray | None = None) -> list[LayerPath]:
        """Paths that the policy walks when it explores; see `Agent.propose`."""
        with self._working():
            return [self._walk(preference, explores=True) for _ in range(count)]

    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        """The path that the policy walks when it does not explore; a beam changes nothing."""
        with self._working():
            return self._walk(preference, explores=False)

    def _walk(self, preference: np.ndarray | None, explores: bool) -> LayerPath:
        env, state, start = self.env, None, np.ones(1, dtype=bool)
        episode = env.begin(self._rng, {} if preference is None else {"preference": preference})
        while not env.ended(episode):
            mask = env.mask(episode)
            masks = {"action_masks": mask} if self._masked else {}
            action, state = self.learner.predict(
                env.observe(episode),
                state,
                start,
                deterministic=not explores,
                **masks,
            )
            start = np.zeros(1, dtype=bool)
            if isinstance(env, BlendPathEnv) or self._masked:
                env.take(episode, action)
            else:
                env.take(episode, nth_legal(mask, int(action)))
        return env.path(episode)

    # --- storage ------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """The policy's weights: what decodes. Optimisers and replay are the search's."""
        weights = self.learner.policy.state_dict()
        return {f"{WEIGHTS}{name}": value.numpy() for name, value in weights.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take over what `arrays` gave."""
        weights = {
            name.removeprefix(WEIGHTS): torch.as_tensor(value)
            for name, value in arrays.items()
            if name.startswith(WEIGHTS)
        }
        self.learner.policy.load_state_dict(weights)


class _Budget(BaseCallback):
    """Ends an algorithm's loop when the budget is spent."""

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        super().__init__()
        self._goes_on = goes_on

    def _on_step(self) -> bool:
        return self._goes_on()


def _environment(
    space: PathSpace | BlendSpace,
    score: Callable[[list[LayerPath]], list[np.ndarray | Unscored | None]],
    objectives: int,
    settings: RunSettings,
) -> PathEnv:
    """The environment of a space, as the algorithms take it."""
    utility = Utility.of(settings.agent)
    reward = (utility.kind, utility.length_cost)
    if isinstance(space, BlendSpace):
        limits = PathLimits(space.depth, space.depth, actions="same_depth")
        return BlendPathEnv(space, score, objectives, limits, True, *reward, utopia=utility.utopia)
    return MergePathEnv(space, score, objectives, *reward, utopia=utility.utopia, describe=False)


def _small() -> PathSpace:
    """A space on which an algorithm's arguments are tried."""
    return PathSpace(
        members=("one", "other"),
        num_layers=(2, 2),
        limits=PathLimits(2, 2, actions="same_depth"),
        context=np.zeros((2, 0), np.float32),
        descriptors=np.zeros((2, 2, 0), np.float32),
        can_follow=np.ones((2, 2), dtype=bool),
    )


def _stacked(env: PathEnv, episodes: Sequence[Episode]) -> Observation:
    rows = [env.observe(episode) for episode in episodes]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

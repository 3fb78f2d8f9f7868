"""The agent as a searcher sees it: learn offline, learn online, answer any preference."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hm3rl.agents.behaviour import elites
from hm3rl.agents.climb import climb
from hm3rl.agents.decoding import roll_out
from hm3rl.agents.features import Background
from hm3rl.agents.goals import Goals
from hm3rl.agents.isolation import Isolation
from hm3rl.agents.knowledge import EvaluatePaths, Knowledge, LogMetrics, Outcome
from hm3rl.agents.offline import behaviour_batch, pretrain
from hm3rl.agents.online import OnlineLoop
from hm3rl.agents.options import check_options
from hm3rl.agents.outcome import OutcomeModel
from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.ppo import build_ppo
from hm3rl.agents.proposals import screened_batch
from hm3rl.agents.refine import refine_for
from hm3rl.agents.regression import Regression
from hm3rl.agents.replay import Replay
from hm3rl.agents.storage import load_state, save_state
from hm3rl.agents.wolpertinger import WolpertingerPolicy
from hm3rl.envs.space import PathSpace
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.settings import AgentSettings

LEAST_TO_FIT = 4
"""Evaluated paths below which F-hat says nothing."""

LESSONS = 256
LESSON_DIVISIONS = 10
"""Preferences for which F-hat's best paths are taught at the end, a lattice among them."""

IMAGINATION_CAUTION = 0.5
"""Standard deviations taken off F-hat's predictions of imagined paths."""


class MergeAgent:
    """Preference-conditioned actor-critic with an outcome model (HM3, adapted: method.md).

    Attributes:
        seconds: Seconds spent in here so far, evaluations excepted.

    Args:
        space: The paths there are.
        settings: All options.
        objectives: Names of the objectives.
        seed: Seed of everything random in here.
        only: The one preference served, shape (K,); None: every preference.
    """

    def __init__(
        self,
        space: PathSpace,
        settings: AgentSettings,
        objectives: Sequence[str],
        seed: int,
        only: np.ndarray | None = None,
    ) -> None:
        check_options(settings)
        self.space = space
        self.settings = settings
        self.objectives = tuple(objectives)
        self.seed = seed
        self.goals = Goals(len(self.objectives), only)
        self.utility = Utility(
            settings.scalarisation,  # type: ignore[arg-type]
            settings.length_cost,
            settings.utopia,
        )
        self.rng = np.random.default_rng(seed)
        self.knowledge = Knowledge(space, len(self.objectives))
        self.replay = Replay(space, len(self.objectives))
        self.model = OutcomeModel(space, len(self.objectives), settings.outcome)
        self.seconds = 0.0
        self._timing = False
        self._isolation = Isolation(seed)
        with self._isolation.scope():
            self.ppo, self._episodes = build_ppo(
                space, len(self.objectives), settings, self._score_rollout, self._sample, seed
            )
        rng = np.random.default_rng(seed + 1)
        self.regression = Regression(
            self.policy, settings, self.goals, self.utility, rng, self.objectives
        )
        self._show_model()
        self._evaluate: EvaluatePaths | None = None

    @property
    def policy(self) -> PathPolicy:
        """The networks."""
        assert isinstance(self.ppo.policy, PathPolicy)
        return self.ppo.policy

    # --- knowledge -------------------------------------------------------------------------

    def absorb(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Take over what is known at no cost, such as the members' own points.

        Args:
            paths: Paths of this space; others are passed over.
            outcomes: Their outcomes.
        """
        for path, outcome in zip(paths, outcomes, strict=True):
            if self.space.offers(path):
                goal = self.goals.draw(1, self.rng)
                self._learn(self.space.encode(path)[None], [outcome], goal)

    def absorb_merges(
        self, context: np.ndarray, descriptors: np.ndarray, outcomes: Sequence[Outcome]
    ) -> None:
        """Let F-hat know of whole merged models that were scored but are not offered.

        Call it before learning begins.

        Args:
            context: Recipe features, shape (n, R), as in the path space.
            descriptors: Layer descriptors, shape (n, L, D).
            outcomes: Their outcomes; failures are passed over.
        """
        ok = [i for i, outcome in enumerate(outcomes) if outcome.ok]
        if ok:
            vectors = np.stack([outcomes[i].vector for i in ok])
            self.set_background(Background(context[ok], descriptors[ok], vectors))

    def set_background(self, background: Background) -> None:
        """Give F-hat whole models that are no members; forgets what it was fitted to."""
        settings, k = self.settings.outcome, len(self.objectives)
        self.model = OutcomeModel(self.space, k, settings, background)
        self._show_model()

    def _show_model(self) -> None:
        """Let Wolpertinger ask F-hat what a completed path is worth."""
        if isinstance(self.policy, WolpertingerPolicy) and self.policy.discretiser is not None:
            self.policy.discretiser.model = self.model

    def _learn(
        self, tokens: np.ndarray, outcomes: Sequence[Outcome], preferences: np.ndarray
    ) -> None:
        for row, outcome, goal in zip(tokens, outcomes, preferences, strict=True):
            if self.knowledge.knows(row):
                continue
            self.knowledge.add(row, outcome)
            if outcome.ok:
                self.replay.add(row[None], outcome.vector[None], goal[None], outcome.nll[None])

    def best_known(self, preferences: np.ndarray) -> np.ndarray:
        """Best utility of all evaluated paths under each of P preferences, shape (P,)."""
        lengths = self.space.lengths(self.knowledge.tokens)[:, None]
        vectors = self.knowledge.vectors[:, None]
        return np.asarray(self.utility(vectors, lengths, preferences[None]).max(axis=0))

    def acquire(self, tokens: np.ndarray, preferences: np.ndarray, evaluate: EvaluatePaths) -> int:
        """Evaluate distinct new rows and learn their outcomes; returns how many were charged."""
        if len(tokens) == 0:
            return 0
        paths = [self.space.decode(row) for row in tokens]
        begin = time.perf_counter()
        with self._isolation.outside():
            outcomes = evaluate(paths)
        self.seconds -= time.perf_counter() - begin
        self._learn(tokens, outcomes, preferences)
        return len(tokens)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time spent inside, evaluations excepted, as the agent's own."""
        if self._timing:
            yield
            return
        begin, self._timing = time.perf_counter(), True
        try:
            yield
        finally:
            self._timing = False
            self.seconds += time.perf_counter() - begin

    # --- learning --------------------------------------------------------------------------

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate behaviour paths, then pre-train F-hat, both critics and the policy.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Exactly so many new paths are evaluated (fewer only if the space has no more).
            log: Receives losses.
        """
        with self._isolation.scope(), self._timed():
            spent = 0
            while spent < budget:
                charged = self._behave(min(self.settings.batch, budget - spent), evaluate)
                if charged == 0:
                    break
                spent += charged
            self._pretrain(log)

    def _behave(self, count: int, evaluate: EvaluatePaths) -> int:
        """Evaluate a batch of behaviour paths; from the first fit on, a share is screened."""
        screening = self.settings.screening
        screened = round(count * screening.offline_share) if screening.enabled else 0
        if screened and len(self.knowledge.vectors) >= LEAST_TO_FIT:
            self.model.fit(self.knowledge)
            charged = screened_batch(self, screened, evaluate, policy=None)
        else:
            charged = 0
        rows, goals = behaviour_batch(
            self.knowledge, self.goals, count - charged, self.settings.length_cost, self.rng
        )
        return charged + self.acquire(rows, goals, evaluate)

    def _pretrain(self, log: LogMetrics) -> None:
        if len(self.knowledge.vectors) < LEAST_TO_FIT:
            return
        self.refit()
        settings = self.settings
        log(
            pretrain(
                self.regression, self.replay, settings.pretrain_steps, settings.patience, self.rng
            )
        )

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Spend the rest of the budget where it promises most, learning all the while.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Exactly so many new paths are evaluated (fewer only if the space has no more).
            log: Receives losses.
        """
        with self._isolation.scope(), self._timed():
            OnlineLoop(self).run(evaluate, budget, log)

    def refit(self) -> None:
        """Fit F-hat to all evaluations and imagine what it thinks best."""
        if len(self.knowledge.vectors) < LEAST_TO_FIT:
            return
        self.model.fit(self.knowledge)
        self.replay.forget_imagined()
        if self.settings.imagined == 0:
            return
        goals = self.goals.spread(self.settings.imagined, 4, self.rng)
        rows = self._imagine(goals)
        self.replay.add(rows, self.cautious(rows), goals, imagined=True)

    def _imagine(self, goals: np.ndarray) -> np.ndarray:
        """What F-hat thinks best under each preference, starting from the best known."""
        starts = elites(self.knowledge, goals, self.utility)
        return climb(self.model, starts, goals, self.utility, self.rng)

    def cautious(self, tokens: np.ndarray) -> np.ndarray:
        """F-hat's expected f / z* less half a standard deviation, shape (n, K)."""
        mean, std = self.model.predict(tokens)
        return mean - IMAGINATION_CAUTION * std

    def distil(self, log: LogMetrics) -> None:
        """Teach the policy F-hat's best path for every preference, at no evaluation.

        The pool of what F-hat thinks best under many preferences, and all that was evaluated, is
        ranked by F-hat for each preference drawn, and the policy imitates the first. The last step
        of `online`; needs `distil_steps`, and does nothing while F-hat has seen too little.
        """
        if not self.model.ready or self.settings.distil_steps == 0:
            return
        with self._isolation.scope(), self._timed():
            rows = self._imagine(self.goals.spread(LESSONS, LESSON_DIVISIONS, self.rng))
            pool = np.unique(np.concatenate([rows, self.knowledge.tokens]), axis=0)
            teacher = Replay(self.space, len(self.objectives))
            teacher.add(pool, self.cautious(pool), self.goals.draw(len(pool), self.rng))
            losses = self.regression.distil(self.replay, teacher, self.settings.distil_steps)
            log({f"distil/{name.split('/')[1]}": value for name, value in losses.items()})

    # --- use -------------------------------------------------------------------------------

    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        """The policy's path for a preference, at no evaluation.

        Args:
            preference: Shape (K,), on the simplex; need not have been seen in training.
            beam: 0 decodes greedily. Otherwise so many samples of the policy and the greedy path
                are improved under F-hat, and the one that F-hat thinks best is returned.
        """
        rng = np.random.default_rng(self.seed)
        goal = np.asarray(preference, dtype=np.float64)
        with self._isolation.scope():
            greedy = roll_out(self.policy, self.space, goal[None], 0.0, rng)
            if beam == 0 or not self.model.ready:
                return self.space.decode(greedy[0])
            goals = np.tile(goal, (beam, 1))
            drawn = roll_out(self.policy, self.space, goals, 1.0, rng)
            starts = np.unique(np.concatenate([greedy, drawn]), axis=0)
            goals = np.tile(goal, (len(starts), 1))
            rows = np.concatenate([starts, climb(self.model, starts, goals, self.utility, rng)])
            expected = self.utility(self.cautious(rows), self.space.lengths(rows), goal)
            return self.space.decode(rows[int(expected.argmax())])

    def refine(self, evaluate: EvaluatePaths, budget: int, preference: np.ndarray) -> None:
        """Spend evaluations on one preference; see `refine_for`."""
        with self._isolation.scope(), self._timed():
            refine_for(self, evaluate, budget, preference)

    def predict(self, paths: Sequence[LayerPath]) -> tuple[np.ndarray, np.ndarray]:
        """F-hat's expected f / z* and standard deviations, both of shape (n, K)."""
        return self.model.predict(np.stack([self.space.encode(path) for path in paths]))

    def save(self, path: Path) -> None:
        """Write one zip: Stable-Baselines3's, with the evaluated paths and the space added."""
        save_state(self, path)

    @classmethod
    def load(cls, path: Path) -> MergeAgent:
        """Read an agent that `save` wrote."""
        return load_state(cls, path)

    # --- rollouts of PPO -------------------------------------------------------------------

    def _sample(self, rng: np.random.Generator) -> np.ndarray:
        """Preference of a rollout: where the front is thin."""
        vectors = self.knowledge.vectors
        front = vectors[self.knowledge.front()] if len(vectors) else vectors
        return self.goals.thin(front, 1, rng)[0]

    def roll_out_real(self, evaluate: EvaluatePaths) -> int:
        """One PPO update on unscreened rollouts; returns how many evaluations it charged."""
        self._evaluate, before = evaluate, len(self.knowledge)
        self.policy.freeze(self.replay.context, self.replay.descriptors)
        try:
            self.ppo.learn_rollout()
        finally:
            self._evaluate = None
        return len(self.knowledge) - before

    def _score_rollout(self, paths: list[LayerPath]) -> list[np.ndarray | None]:
        """Scores for the environment: known paths at no cost, new ones evaluated."""
        assert self._evaluate is not None
        tokens = np.stack([self.space.encode(path) for path in paths])
        goals = self._episodes.preferences
        first: dict[bytes, int] = {}
        for i, row in enumerate(tokens):
            first.setdefault(row.tobytes(), i)
        fresh = self.knowledge.fresh(tokens)
        self.acquire(fresh, goals[[first[row.tobytes()] for row in fresh]], self._evaluate)
        outcomes = [self.knowledge.outcome(row) for row in tokens]
        return [outcome.vector if outcome.ok else None for outcome in outcomes]

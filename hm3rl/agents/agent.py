"""The agent as a searcher sees it: learn offline, learn online, answer any preference."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hm3rl.agents.behaviour import beyond, elites
from hm3rl.agents.climb import climb
from hm3rl.agents.decoding import roll_out
from hm3rl.agents.features import Background
from hm3rl.agents.knowledge import EvaluatePaths, Knowledge, LogMetrics, Outcome
from hm3rl.agents.offline import behaviour_batch, pretrain
from hm3rl.agents.online import OnlineLoop
from hm3rl.agents.options import check_options
from hm3rl.agents.outcome import OutcomeModel
from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.ppo import build_ppo
from hm3rl.agents.proposals import screened_batch, thin_preferences
from hm3rl.agents.randomness import OwnRandomness
from hm3rl.agents.refine import refine_for
from hm3rl.agents.regression import Regression
from hm3rl.agents.replay import Replay
from hm3rl.agents.storage import load_state, save_state
from hm3rl.envs.space import PathSpace
from hm3rl.objectives.preferences import sample_dirichlet, simplex_lattice
from hm3rl.objectives.scalarisation import Scalarisation, scalarise
from hm3rl.paths.layer_path import LayerPath
from hm3rl.settings import AgentSettings

LEAST_TO_FIT = 4
"""Evaluated paths below which F-hat says nothing."""

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
    """

    def __init__(
        self, space: PathSpace, settings: AgentSettings, objectives: Sequence[str], seed: int
    ) -> None:
        check_options(settings)
        self.space = space
        self.settings = settings
        self.objectives = tuple(objectives)
        self.seed = seed
        self.kind: Scalarisation = settings.scalarisation  # type: ignore[assignment]
        self.rng = np.random.default_rng(seed)
        self.knowledge = Knowledge(space, len(self.objectives))
        self.replay = Replay(space, len(self.objectives))
        self.model = OutcomeModel(space, len(self.objectives), settings.outcome)
        self.seconds = 0.0
        self._randomness = OwnRandomness(seed)
        with self._randomness.scope():
            self.ppo, self._episodes = build_ppo(
                space, len(self.objectives), settings, self._score_rollout, self._sample, seed
            )
        self.regression = Regression(self.policy, settings, np.random.default_rng(seed + 1))
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
                goal = sample_dirichlet(1, len(self.objectives), self.rng)
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
            background = Background(context[ok], descriptors[ok], vectors)
            self._set_background(background)

    def _set_background(self, background: Background) -> None:
        settings, k = self.settings.outcome, len(self.objectives)
        self.model = OutcomeModel(self.space, k, settings, background)

    def _learn(
        self, tokens: np.ndarray, outcomes: Sequence[Outcome], preferences: np.ndarray
    ) -> None:
        for row, outcome, goal in zip(tokens, outcomes, preferences, strict=True):
            if self.knowledge.knows(row):
                continue
            self.knowledge.add(row, outcome)
            if outcome.ok:
                returns = self._returns(row[None], outcome.vector[None])
                self.replay.add(row[None], returns, goal[None])

    def _returns(self, tokens: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Vectors with the length cost taken off every objective."""
        lengths = self.knowledge.lengths(tokens)
        return vectors - self.settings.length_cost * lengths[:, None]

    def acquire(self, tokens: np.ndarray, preferences: np.ndarray, evaluate: EvaluatePaths) -> int:
        """Evaluate distinct new rows and learn their outcomes; returns how many were charged."""
        if len(tokens) == 0:
            return 0
        paths = [self.space.decode(row) for row in tokens]
        begin = time.perf_counter()
        with self._randomness.outside():
            outcomes = evaluate(paths)
        self.seconds -= time.perf_counter() - begin
        self._learn(tokens, outcomes, preferences)
        return len(tokens)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time spent inside, evaluations excepted, as the agent's own."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begin

    # --- learning --------------------------------------------------------------------------

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate behaviour paths, then pre-train F-hat, both critics and the policy.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Exactly so many new paths are evaluated (fewer only if the space has no more).
            log: Receives losses.
        """
        with self._randomness.scope(), self._timed():
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
        rows, goals = behaviour_batch(self.knowledge, "tchebycheff", count - charged, self.rng)
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
        with self._randomness.scope(), self._timed():
            OnlineLoop(self).run(evaluate, budget, log)

    def refit(self) -> None:
        """Fit F-hat to all evaluations and imagine what it thinks best."""
        if len(self.knowledge.vectors) < LEAST_TO_FIT:
            return
        self.model.fit(self.knowledge)
        self.replay.forget_imagined()
        if self.settings.imagined == 0:
            return
        k = len(self.objectives)
        lattice = simplex_lattice(k, 4)
        draws = sample_dirichlet(max(0, self.settings.imagined - len(lattice)), k, self.rng)
        goals = np.concatenate([lattice, draws])[: self.settings.imagined]
        starts = elites(self.knowledge, goals, self.kind)
        utopia = beyond(self.knowledge.vectors)
        rows = climb(self.model, starts, goals, self.kind, self.rng, utopia)
        mean, std = self.model.predict(rows)
        returns = self._returns(rows, mean - IMAGINATION_CAUTION * std)
        self.replay.add(rows, returns, goals, imagined=True)

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
        with self._randomness.scope():
            greedy = roll_out(self.policy, self.space, goal[None], 0.0, rng)
            if beam == 0 or not self.model.ready:
                return self.space.decode(greedy[0])
            goals = np.tile(goal, (beam, 1))
            drawn = roll_out(self.policy, self.space, goals, 1.0, rng)
            starts = np.unique(np.concatenate([greedy, drawn]), axis=0)
            goals = np.tile(goal, (len(starts), 1))
            utopia = beyond(self.knowledge.vectors)
            rows = climb(self.model, starts, goals, self.kind, rng, utopia)
            rows = np.concatenate([starts, rows])
            mean, std = self.model.predict(rows)
            expected = scalarise(mean - IMAGINATION_CAUTION * std, goal, self.kind)
            expected -= self.settings.length_cost * self.knowledge.lengths(rows)
            return self.space.decode(rows[int(expected.argmax())])

    def refine(self, evaluate: EvaluatePaths, budget: int, preference: np.ndarray) -> None:
        """Spend evaluations on one preference; see `refine_for`."""
        with self._randomness.scope(), self._timed():
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
        return thin_preferences(front, 1, rng)[0]

    def roll_out_real(self, evaluate: EvaluatePaths) -> int:
        """One PPO update on unscreened rollouts; returns how many evaluations it charged."""
        self._evaluate, before = evaluate, len(self.knowledge)
        try:
            self.ppo.learn_rollout()
        finally:
            self._evaluate = None
        return len(self.knowledge) - before

    def _score_rollout(self, paths: list[LayerPath]) -> np.ndarray:
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
        # A failure is no score: PPO is shown an average outcome, from which it learns nothing.
        average = self.knowledge.vectors.mean(axis=0)
        return np.stack([out.vector if out.ok else average for out in outcomes])

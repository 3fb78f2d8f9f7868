"""What an agent has: its space, options, data, networks and generators.

Everything in this room that learns, proposes or evaluates works on this state; the state knows
none of it. Only the phases (`offline`, `online`, `refine`) and the rollouts of PPO have paths
evaluated; what they are told is observed here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from hm3rl.agents.batches import ROLLOUT, Proposals
from hm3rl.agents.generators import GeneratorScope
from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.ppo import build_ppo
from hm3rl.agents.regression import Regression
from hm3rl.agents.replay import Replay
from hm3rl.agents.served import ServedPreferences
from hm3rl.agents.wolpertinger import WolpertingerPolicy
from hm3rl.config.agents import HM3AgentSettings, SurrogateSettings
from hm3rl.config.values import check_values
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import Dataset, EvaluatePaths, Outcome
from hm3rl.surrogate.features import AuxiliaryData
from hm3rl.surrogate.path_surrogate import PathSurrogate

LEAST_TO_FIT = 4
"""Evaluated paths below which the surrogate says nothing."""

CAUTION = 0.5
"""Standard deviations taken off the surrogate's predictions of paths that nobody evaluated."""


class AgentState:
    """The state of one agent.

    Attributes:
        served: The preferences it serves.
        utility: What a path is worth under a preference.
        rng: Generator of its own decisions.
        dataset: Evaluated paths.
        replay: Trajectories for regression.
        surrogate: Predicts outcomes of complete paths.
        ppo: Stable-Baselines3's learner, which owns the networks.
        regression: Learns from the replay.
        seconds: Seconds spent by the agent so far, evaluations excepted.

    Args:
        space: The paths there are.
        settings: All options.
        surrogate: Those of the surrogate.
        objectives: Names of the objectives.
        seed: Seed of everything random in here.
        only: The one preference served, shape (K,); None: every preference.
    """

    def __init__(
        self,
        space: PathSpace,
        settings: HM3AgentSettings,
        surrogate: SurrogateSettings,
        objectives: Sequence[str],
        seed: int,
        only: np.ndarray | None = None,
    ) -> None:
        check_values(settings, "agent.")
        check_values(surrogate, "surrogate.")
        self.space = space
        self.settings = settings
        self.objectives = tuple(objectives)
        self.seed = seed
        self.served = ServedPreferences(len(self.objectives), only)
        self.utility = Utility.of(settings)
        self.rng = np.random.default_rng(seed)
        self.dataset = Dataset(space, len(self.objectives))
        self.replay = Replay(space, len(self.objectives))
        self.surrogate = PathSurrogate(space, len(self.objectives), surrogate)
        self.seconds = 0.0
        self.generators = GeneratorScope(seed)
        self._timing = False
        self._rollouts: EvaluatePaths | None = None
        with self.generators.scope():
            self.ppo, self._episodes = build_ppo(
                space, len(self.objectives), settings, self._score_rollout, self._sample, seed
            )
        rng = np.random.default_rng(seed + 1)
        self.regression = Regression(
            self.policy, settings, self.served, self.utility, rng, self.objectives
        )
        self._show_model()

    @property
    def policy(self) -> PathPolicy:
        """The networks."""
        assert isinstance(self.ppo.policy, PathPolicy)
        return self.ppo.policy

    @property
    def front(self) -> np.ndarray:
        """Vectors f / z* of the non-dominated paths, shape (F, K)."""
        vectors = self.dataset.vectors
        return vectors[self.dataset.front()] if len(vectors) else vectors

    @property
    def fittable(self) -> bool:
        """Whether there is enough to fit the surrogate to."""
        return len(self.dataset.vectors) >= LEAST_TO_FIT

    def best_known(self, preferences: np.ndarray) -> np.ndarray:
        """Best utility of all evaluated paths under each of P preferences, shape (P,)."""
        lengths = self.space.lengths(self.dataset.tokens)[:, None]
        vectors = self.dataset.vectors[:, None]
        return np.asarray(self.utility(vectors, lengths, preferences[None]).max(axis=0))

    def cautious(self, tokens: np.ndarray) -> np.ndarray:
        """The surrogate's expected f / z* less half a standard deviation, shape (n, K)."""
        mean, std = self.surrogate.predict(tokens)
        return mean - CAUTION * std

    # --- observing ----------------------------------------------------------------------------

    def observe(
        self, tokens: np.ndarray, outcomes: Sequence[Outcome], preferences: np.ndarray
    ) -> None:
        """Take outcomes over; of a path that is known the first one stays.

        Args:
            tokens: Rows of n paths, shape (n, horizon).
            outcomes: Their outcomes.
            preferences: Under which each was made, shape (n, K).
        """
        for row, outcome, preference in zip(tokens, outcomes, preferences, strict=True):
            if self.dataset.knows(row):
                continue
            self.dataset.add(row, outcome)
            if outcome.ok:
                self.replay.add(
                    row[None], outcome.vector[None], preference[None], outcome.nll[None]
                )

    def set_auxiliary(self, auxiliary: AuxiliaryData) -> None:
        """Give the surrogate whole models that are no members; forgets what it was fitted to."""
        settings, k = self.surrogate.settings, len(self.objectives)
        self.surrogate = PathSurrogate(self.space, k, settings, auxiliary)
        self._show_model()

    def _show_model(self) -> None:
        """Let Wolpertinger ask the surrogate what a completed path is worth."""
        if isinstance(self.policy, WolpertingerPolicy) and self.policy.discretiser is not None:
            self.policy.discretiser.model = self.surrogate

    # --- evaluating ---------------------------------------------------------------------------

    def evaluate(self, proposals: Proposals, evaluate: EvaluatePaths) -> int:
        """Have distinct new paths evaluated and observe their outcomes.

        Args:
            proposals: n of them.
            evaluate: Scores new paths and charges the budget.

        Returns:
            Evaluations charged.
        """
        if len(proposals.tokens) == 0:
            return 0
        paths = [self.space.decode(row) for row in proposals.tokens]
        begin = time.perf_counter()
        with self.generators.outside():
            outcomes = evaluate(paths, proposals.chosen_by)
        self.seconds -= time.perf_counter() - begin
        self.observe(proposals.tokens, outcomes, proposals.preferences)
        return len(paths)

    def roll_out_real(self, evaluate: EvaluatePaths) -> int:
        """One PPO update on unscreened rollouts; returns how many evaluations it charged."""
        self._rollouts, before = evaluate, len(self.dataset)
        self.policy.freeze(self.replay.context, self.replay.descriptors)
        try:
            self.ppo.learn_rollout()
        finally:
            self._rollouts = None
        return len(self.dataset) - before

    def _sample(self, rng: np.random.Generator) -> np.ndarray:
        """Preference of a rollout: where the front is sparse."""
        return self.served.sparse(self.front, 1, rng)[0]

    def _score_rollout(self, paths: list[LayerPath]) -> list[np.ndarray | None]:
        """Scores for the environment: known paths at no cost, new ones evaluated."""
        assert self._rollouts is not None
        tokens = np.stack([self.space.encode(path) for path in paths])
        made = Proposals.of(tokens, self._episodes.preferences, ROLLOUT)
        self.evaluate(made.at(self.dataset.fresh_at(tokens)), self._rollouts)
        outcomes = [self.dataset.outcome(row) for row in tokens]
        return [outcome.vector if outcome.ok else None for outcome in outcomes]

    # --- surroundings -------------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[None]:
        """The agent's own generators and one thread; the time counts as its own."""
        with self.generators.scope():
            if self._timing:
                yield
                return
            begin, self._timing = time.perf_counter(), True
            try:
                yield
            finally:
                self._timing = False
                self.seconds += time.perf_counter() - begin

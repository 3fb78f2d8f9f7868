"""The agent as a searcher sees it: learn offline, learn online, answer any preference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from hm3rl.agents.base import Agent
from hm3rl.agents.checkpoint import load_state, save_state, stored_sizes
from hm3rl.agents.decoding import roll_out
from hm3rl.agents.model_generated import refit
from hm3rl.agents.offline import run_offline
from hm3rl.agents.online import OnlineLoop
from hm3rl.agents.proposals import screened
from hm3rl.agents.refine import chosen_for, refine_for
from hm3rl.agents.state import AgentState
from hm3rl.agents.transfer import agent_file
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics, Outcome
from hm3rl.surrogate.features import AuxiliaryData
from hm3rl.surrogate.local_search import climb


class MergeAgent(Agent[PathSpace]):
    """Preference-conditioned actor-critic with a surrogate (HM3, adapted: method.md).

    Attributes:
        state: What it has: data, networks, generators.

    Args:
        state: A fresh one, or one read by `load`.
    """

    def __init__(self, state: AgentState) -> None:
        self.state = state
        self.space = state.space
        self.objectives = state.objectives

    @classmethod
    def fresh(
        cls,
        space: PathSpace,
        objectives: Sequence[str],
        settings: RunSettings,
        only: np.ndarray | None = None,
    ) -> Self:
        """An agent that has learned nothing; see `Agent` and `AgentState`."""
        agent, surrogate = settings.agent, settings.surrogate
        assert isinstance(agent, HM3AgentSettings)  # registered with it
        return cls(AgentState(space, agent, surrogate, objectives, settings.seed, only))

    @classmethod
    def check(cls, settings: RunSettings, began: bool) -> None:
        """Refuse networks to start from that are none."""
        agent = settings.agent
        assert isinstance(agent, HM3AgentSettings)
        if agent.per_preference and agent.init_from:
            raise InputError(
                "agent.init_from with agent.per_preference, which initialises networks anew",
                "drop one of them",
            )
        if agent.init_from and not began:
            stored_sizes(agent_file(agent.init_from))

    @property
    def seconds(self) -> float:  # type: ignore[override]
        """Seconds spent in here so far, evaluations excepted."""
        return self.state.seconds

    def absorb(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Take over what is known at no cost; see `Agent.absorb`."""
        self.observe(paths, outcomes)

    def observe(self, paths: Sequence[LayerPath], outcomes: Sequence[Outcome]) -> None:
        """Hear what paths scored; paths of other spaces are passed over."""
        state = self.state
        for path, outcome in zip(paths, outcomes, strict=True):
            if state.space.offers(path):
                preference = state.served.draw(1, state.rng)
                state.observe(state.space.encode(path)[None], [outcome], preference)

    def learn_merges(
        self, context: np.ndarray, descriptors: np.ndarray, outcomes: Sequence[Outcome]
    ) -> None:
        """Let the surrogate know of whole merged models that were scored but are not offered.

        Call it before learning begins; failures are passed over.
        """
        ok = [i for i, outcome in enumerate(outcomes) if outcome.ok]
        if ok:
            vectors = np.stack([outcomes[i].vector for i in ok])
            self.state.set_auxiliary(AuxiliaryData(context[ok], descriptors[ok], vectors))

    def propose(self, count: int, preference: np.ndarray | None = None) -> list[LayerPath]:
        """What the acquisition chooses among the policy's samples and variations of the best."""
        state = self.state
        with state.working():
            refit(state)
            if not state.surrogate.ready:
                preferences = state.served.draw(count, state.rng)
                rows = roll_out(state.policy, state.space, preferences, 1.0, state.rng)
                rows = state.dataset.fresh(rows)
            elif preference is None:
                rows = screened(state, count, state.policy).tokens
            else:
                rows = chosen_for(state, count, preference).tokens
            return [state.space.decode(row) for row in rows]

    def offline(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate behaviour paths, then pre-train all networks; see `run_offline`."""
        with self.state.working():
            run_offline(self.state, evaluate, budget, log)

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Spend the rest of the budget where it promises most, learning all the while.

        Args:
            evaluate: Scores new paths and charges the budget.
            budget: Exactly so many new paths are evaluated (fewer only if the space has no more).
            log: Receives losses.
        """
        with self.state.working():
            OnlineLoop(self.state).run(evaluate, budget, log)

    def decode(self, preference: np.ndarray, beam: int = 0) -> LayerPath:
        """The policy's path for a preference, at no evaluation.

        Args:
            preference: Shape (K,), on the simplex; need not have been seen in training.
            beam: 0 decodes greedily. Otherwise so many samples of the policy and the greedy path
                are improved under the surrogate, and the one that it thinks best is returned.
        """
        state = self.state
        rng = np.random.default_rng(state.seed)
        preference = np.asarray(preference, dtype=np.float64)
        with state.generators.scope():
            greedy = roll_out(state.policy, state.space, preference[None], 0.0, rng)
            if beam == 0 or not state.surrogate.ready:
                return state.space.decode(greedy[0])
            preferences = np.tile(preference, (beam, 1))
            drawn = roll_out(state.policy, state.space, preferences, 1.0, rng)
            starts = np.unique(np.concatenate([greedy, drawn]), axis=0)
            preferences = np.tile(preference, (len(starts), 1))
            rows = np.concatenate(
                [starts, climb(state.surrogate, starts, preferences, state.utility, rng)]
            )
            best = state.utility.best(state.cautious(rows), state.space.lengths(rows), preference)
            return state.space.decode(rows[best])

    def refine(self, evaluate: EvaluatePaths, budget: int, preference: np.ndarray) -> None:
        """Spend evaluations on one preference; see `refine_for`."""
        with self.state.working():
            refine_for(self.state, evaluate, budget, preference)

    def predict(self, paths: Sequence[LayerPath]) -> tuple[np.ndarray, np.ndarray]:
        """The surrogate's expected f / z* and standard deviations, both of shape (n, K)."""
        rows = np.stack([self.state.space.encode(path) for path in paths])
        return self.state.surrogate.predict(rows)

    def save(self, path: Path) -> None:
        """Write one zip: Stable-Baselines3's, with the evaluated paths and the space added."""
        save_state(self.state, path)

    @classmethod
    def load(cls, path: Path, settings: RunSettings | None = None) -> MergeAgent:
        """Read an agent that `save` wrote; its options are in the file."""
        return cls(load_state(path))

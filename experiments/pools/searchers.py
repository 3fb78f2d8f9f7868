"""Competitors and ablations that the package does not have: a plugin.

They start as the package's do: the parameter level with its share of the budget
(`hm3rl.search.levels.OverPaths`), whose merges and the sources' own points they are told.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from experiments.pools.blends import blends_of, known_blends
from experiments.pools.regions import Box, Regions
from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.online import OnlineLoop
from hm3rl.agents.proposals import screened
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.config.searchers import MmMoSizes, OverPathsSettings, SearcherSettings
from hm3rl.config.values import number
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.references import uniform_blends
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.preferences import sample_faces
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.paths.candidate import Candidate
from hm3rl.registry import register
from hm3rl.search.base import Searcher
from hm3rl.search.encoding import GroupedBlends
from hm3rl.search.ledger import Ledger, Scores
from hm3rl.search.levels import OverPaths
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics

BATCH = 8
"""Evaluations in one round, as in `agent.batch`; chains of the annealing."""

COLD, NARROWEST = 0.002, 0.05
"""Temperature and steps at the end of the annealing, in the units of `AnnealingSettings`."""


@register("searcher", "uniform")
class Uniform(Searcher[SearcherSettings]):
    """1/K of each task vector at three scales: what costs nothing to know."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Score the three merges, or as many as the budget allows; see `Searcher.search`."""
        recipes = uniform_blends(problem.pool.expert_names).values()
        problem.logger.phase(self.name, min(budget, len(recipes)))
        depth = problem.pool.num_layers
        Ledger(problem, budget, self.name).score([Candidate.whole(one, depth) for one in recipes])
        return problem.archive


@dataclass
class BlendSettings(OverPathsSettings):
    """Options of searches over blends.

    Attributes:
        groups: Groups of layers that are blended apart; 0: every layer.
    """

    groups: int = number(4, least=0)


@dataclass
class Blending:
    """A search over blends on its way.

    Attributes:
        ledger: Scores candidates.
        encoding: Decodes vectors.
        vectors: What is known, shape (N, D).
        scores: Its f / z*, shape (N, K).
        rng: Source of randomness.
    """

    ledger: Ledger
    encoding: GroupedBlends
    vectors: np.ndarray
    scores: np.ndarray
    rng: np.random.Generator

    def try_out(self, vectors: np.ndarray) -> Scores:
        """Score vectors, as many as the budget allows; what did not fail is known then."""
        found = self.ledger.score([self.encoding.decode(vector) for vector in vectors])
        self.vectors = np.concatenate([self.vectors, vectors[: len(found.ok)][found.ok]])
        self.scores = np.concatenate([self.scores, found.vectors])
        return found


Options = TypeVar("Options", bound=BlendSettings)


class OverBlends(OverPaths[Options]):
    """What searches over blends have in common: the parameter level first.

    Args:
        settings: The run.
    """

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        _, _, left = self.offer_members(problem, budget, rng)
        problem.logger.phase(self.name, left)
        encoding = blends_of(problem, self.options.groups or None)
        ledger = Ledger(problem, left, self.name)
        self.blend(Blending(ledger, encoding, *known_blends(problem, encoding), rng))
        return problem.archive

    @abstractmethod
    def blend(self, state: Blending) -> None:
        """Spend the ledger."""


@dataclass
class AnnealingSettings(BlendSettings):
    """Options of the annealing, which `experiments.pools.tuning` varies.

    Attributes:
        hot: Temperature at its beginning, in units of the utility of f / z*.
        widest: Its steps at the beginning, standard deviations of a coefficient.
    """

    hot: float = number(0.05, above=0)
    widest: float = number(0.3, above=0, most=1)


@register("searcher", "annealing", options=AnnealingSettings)
class Annealing(OverBlends[AnnealingSettings]):
    """Simulated annealing (Kirkpatrick et al., 1983), one chain for each of eight preferences.

    Each chain starts from the best that is known under its preference (augmented Tchebycheff), and
    moves by a Gaussian step in the stem or one group of layers, or in all of them alike.
    """

    def blend(self, state: Blending) -> None:
        """Anneal all chains side by side; see `OverBlends.blend`."""
        ledger, encoding, rng = state.ledger, state.encoding, state.rng
        hot, widest = self.options.hot, self.options.widest
        preferences = sample_faces(BATCH, state.scores.shape[1], rng)
        start = np.array([tchebycheff(state.scores, goal).argmax() for goal in preferences])
        at, worth = state.vectors[start], tchebycheff(state.scores[start], preferences)
        total = ledger.left
        while ledger.left:
            done = 1.0 - ledger.left / total
            temperature = hot * (COLD / hot) ** done
            size = widest * (NARROWEST / widest) ** done
            moved = np.array([_step(encoding, vector, size, rng) for vector in at])
            if not any(ledger.is_new(encoding.decode(vector)) for vector in moved):
                return
            for i, row in enumerate(state.try_out(moved).each()):
                if row is None:
                    continue
                found = float(tchebycheff(row, preferences[i]))
                if rng.random() < np.exp(min((found - worth[i]) / temperature, 0.0)):
                    at[i], worth[i] = moved[i], found


def _step(
    encoding: GroupedBlends, vector: np.ndarray, size: float, rng: np.random.Generator
) -> np.ndarray:
    """A neighbour of a vector: one row of it moves, or every row by the same step."""
    rows = vector.reshape(encoding.shape).copy()
    step = rng.normal(0.0, size, size=encoding.shape[1])
    place = int(rng.integers(-1, len(rows)))
    rows[slice(None) if place < 0 else place] += step
    return np.clip(rows, 0.0, 1.0).ravel()


@dataclass
class LayerBOSettings(BlendSettings):
    """Options of Bayesian optimisation of blends.

    Attributes:
        regions: Trust regions that take turns; 0: none, vectors are sought everywhere.
        sparse: Whether the prior says that few coefficients matter (SAAS).
        improvement: Objectives up to which batches are chosen by hypervolume improvement; with
            more, by ParEGO. With four, improvement takes eight seconds an evaluation.
    """

    regions: int = number(0, least=0)
    sparse: bool = False
    improvement: int = number(3, least=1)


@register("searcher", "layer_bo", options=LayerBOSettings, needs=("botorch",))
class LayerBO(OverBlends[LayerBOSettings]):
    """Bayesian optimisation of the blends by BoTorch's qLogNEHVI; above three objectives, ParEGO.

    32 Monte-Carlo samples and 4 restarts, so that an evaluation costs about a second (README.md).
    """

    sizes = MmMoSizes(batch=BATCH, samples=32, restarts=4, steps=20)

    def blend(self, state: Blending) -> None:
        """Batches of the largest expected improvement; see `OverBlends.blend`."""
        regions = Regions(self.options.regions)
        while state.ledger.left:
            asked = self._next(state, regions.around(state.vectors, state.scores))
            if not len(asked):
                return
            before = len(state.scores)
            state.try_out(asked)
            regions.learn(state.vectors, state.scores, before)

    def _next(self, state: Blending, boxes: Sequence[Box]) -> np.ndarray:
        """The next vectors, of new candidates, shape (n, D); none if the space is exhausted."""
        from hm3rl.search.bayesian import Surrogate

        ledger, encoding, scores = state.ledger, state.encoding, state.scores
        reference, seed = np.zeros(scores.shape[1]), int(state.rng.integers(2**31))
        begun = time.perf_counter()
        surrogate = Surrogate(
            state.vectors, scores, reference, self.sizes, seed, sparse=self.options.sparse
        )
        proposals = surrogate.propose(min(BATCH, ledger.left), boxes, self.options.improvement)
        ledger.problem.deciding += time.perf_counter() - begun
        chosen: dict[str, np.ndarray] = {}
        for vector in proposals:
            candidate = encoding.decode(vector)
            if ledger.is_new(candidate):
                chosen.setdefault(ledger.problem.key(candidate), vector)
        if chosen:
            return np.array(list(chosen.values()))
        return ledger.fresh(encoding, BATCH, state.rng)


@register("agent", "unguided", options=HM3AgentSettings)
class Unguided(MergeAgent):
    """HM3's agent with an online phase that asks no policy.

    What options can switch off, `experiments.pools.methods` does; that the untrained policy is
    asked for paths, no option can.
    """

    def online(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Spend the rest of the budget on what the surrogate chooses; see `MergeAgent.online`."""
        with self.state.working():
            UnguidedLoop(self.state).run(evaluate, budget, log)


class UnguidedLoop(OnlineLoop):
    """The online phase with variations and ascents under the surrogate as its only proposals."""

    def _rollout_turn(self, left: int) -> bool:
        return False

    def _screened(self, count: int, evaluate: EvaluatePaths) -> int:
        state = self.state
        if not state.surrogate.ready:
            return 0  # behaviour paths then
        return state.evaluate(screened(state, count, policy=None), evaluate)

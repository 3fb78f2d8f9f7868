"""A searcher with options: hill climbing by layers from the best expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hm3rl.config.searchers import SearcherSettings
from hm3rl.config.values import choice, number
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.variation import mutate
from hm3rl.registry import register
from hm3rl.search.architecture_level import path_space
from hm3rl.search.base import Searcher


@dataclass
class GreedySettings(SearcherSettings):
    """Options of `climber`."""

    patience: int = number(20, least=1)
    start: str = choice("first", "last")


@register("searcher", "climber", options=GreedySettings)
class Greedy(Searcher[GreedySettings]):
    """Keeps every change of one layer that raises the mean score."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget, or stop when `patience` changes in a row were known."""
        rng = np.random.default_rng(self.seed)
        experts = problem.pool.expert_names
        space = path_space(problem, experts)
        best = space.whole(0 if self.options.start == "first" else len(experts) - 1)
        worth, known = 0.0, 0
        problem.logger.phase(self.name, budget)
        while problem.remaining and known < self.options.patience:
            before = problem.remaining
            tokens = mutate(space, best, rng)
            candidate = Candidate.of(space.decode(tokens), problem.members.recipes)
            (evaluation,) = problem.evaluate([candidate], phase=self.name)
            known = known + 1 if problem.remaining == before else 0
            value = float((evaluation.vector / problem.z_star).mean()) if evaluation.ok else 0.0
            if value > worth:
                best, worth = tokens, value
        return problem.archive

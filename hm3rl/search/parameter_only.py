"""Ablation `parameter_only`: the whole budget for merged weights (HM3 Table 6, no arch. level)."""

from __future__ import annotations

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents
from hm3rl.config.schema import SearchSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.level_sampler import sample_recipes


class ParameterOnly:
    """Searches recipes with the sampler of HM3's parameter level and nothing else.

    Args:
        settings: The searcher's settings.
        seed: Seed of the search.
        planned: Budget the warm-up refers to; 0: the budget given to `search`.
    """

    name = "parameter_only"
    phases = 1

    def __init__(self, settings: SearchSettings, seed: int, planned: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        self.planned = planned
        self.agent: MergeAgent | SeparateAgents | None = None

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        problem.logger.phase("parameter", budget)
        sample_recipes(problem, budget, self.settings, rng, "parameter", planned=self.planned)
        return problem.archive

"""Ablation `parameter_only`: the whole budget for merged weights (HM3 Table 6, no arch. level)."""

from __future__ import annotations

import numpy as np

from hm3rl.config.searchers import MergingSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.base import Searcher
from hm3rl.search.level_sampler import sample_recipes


class ParameterOnly(Searcher[MergingSettings]):
    """Searches recipes with the sampler of HM3's parameter level and nothing else."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        problem.logger.phase("parameter", budget)
        sample_recipes(
            problem, budget, self.options.parameter, rng, "parameter", planned=self.planned
        )
        return problem.archive

"""Baselines `nsga2` and `nsga3`: genetic algorithms over merge recipes.

NSGA-II (Deb et al., IEEE TEC 2002) and NSGA-III (Deb and Jain, IEEE TEC 2014) as pymoo has them,
with its operators for real numbers. The space is that of HM3's parameter level (operator, weights,
scale, density) and the first population has its distribution, so what differs is the optimiser.
Populations are small, since a run has a few hundred evaluations, not tens of thousands.
"""

from __future__ import annotations

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.encoding import RecipeEncoding
from hm3rl.search.evolution import evolve, nsga
from hm3rl.search.ledger import Ledger
from hm3rl.settings import SearchSettings


class Nsga:
    """Evolves merge recipes.

    Args:
        settings: The searcher's settings; `name` says which of the two algorithms.
        seed: Seed of the search.
        planned: Not used: decisions do not depend on the budget.
    """

    phases = 1

    def __init__(self, settings: SearchSettings, seed: int, planned: int = 0) -> None:
        self.name = settings.name
        self.settings = settings
        self.seed = seed
        self.agent: MergeAgent | SeparateAgents | None = None

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        problem.logger.phase(self.name, budget)
        ledger = Ledger(problem, budget, self.name)
        pool = problem.pool
        encoding = RecipeEncoding(pool.expert_names, self.settings.parameter, pool.num_layers)
        size = self.settings.evolution.population
        evolve(ledger, encoding, nsga(self.name, ledger, encoding, size, rng), rng)
        return problem.archive

"""Baseline `cmaes`: evolutionary merging in the space of parameters.

Akiba et al., "Evolutionary optimization of model merging recipes" (arXiv 2403.13187; Nature Machine
Intelligence 2025), section 3.1: DARE-TIES with a weight and a density for every expert and layer,
evolved by CMA-ES from 0.5 with step 1/6 and a population of 4 + 3 log(n).

What deviates: layers are grouped (`search.cmaes.groups`), since a few hundred evaluations cannot
adapt hundreds of dimensions; embedding and head go with the first group; the paper maximises one
metric, here preferences take turns (`cma_bridge`); weights are not divided by those that agree
(`normalise=False`), so that the size of the merged task vector is searched as well.
"""

from __future__ import annotations

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents
from hm3rl.config.schema import SearchSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.cma_bridge import evolve_cma
from hm3rl.search.encoding import LayerGroupEncoding
from hm3rl.search.ledger import Ledger


class CmaEs:
    """Evolves layer-wise DARE-TIES merges.

    Args:
        settings: The searcher's settings.
        seed: Seed of the search.
        planned: Not used: decisions do not depend on the budget.
    """

    name = "cmaes"
    phases = 1

    def __init__(self, settings: SearchSettings, seed: int, planned: int = 0) -> None:
        self.settings = settings
        self.seed = seed
        self.agent: MergeAgent | SeparateAgents | None = None

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        problem.logger.phase(self.name, budget)
        own = self.settings.cmaes
        encoding = LayerGroupEncoding(
            problem.pool.expert_names, problem.pool.num_layers, own.groups
        )
        ledger = Ledger(problem, budget, self.name)
        evolve_cma(ledger, encoding, own.generations, np.random.default_rng(self.seed))
        return problem.archive

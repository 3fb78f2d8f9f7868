"""Baseline `cmaes`: evolutionary merging in the space of parameters.

Akiba et al., "Evolutionary optimization of model merging recipes" (arXiv 2403.13187; Nature Machine
Intelligence 2025), section 3.1: DARE-TIES with a weight and a density for every expert and layer,
evolved by CMA-ES from 0.5 with step 1/6 and a population of 4 + 3 log(n).

What deviates: layers are grouped (`search.groups`), since a few hundred evaluations cannot
adapt hundreds of dimensions; embedding and head go with the first group; the paper maximises one
metric, here preferences take turns (`cma_bridge`); weights are not divided by those that agree
(`normalise=False`), so that the size of the merged task vector is searched as well.
"""

from __future__ import annotations

import numpy as np

from hm3rl.config.searchers import CmaEsSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.base import Searcher
from hm3rl.search.cma_bridge import evolve_cma
from hm3rl.search.encoding import LayerGroupEncoding
from hm3rl.search.ledger import Ledger


class CmaEs(Searcher[CmaEsSettings]):
    """Evolves layer-wise DARE-TIES merges."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        problem.logger.phase(self.name, budget)
        own = self.options
        encoding = LayerGroupEncoding(
            problem.pool.expert_names, problem.pool.num_layers, own.groups
        )
        ledger = Ledger(problem, budget, self.name)
        evolve_cma(ledger, encoding, own.generations, np.random.default_rng(self.seed))
        return problem.archive

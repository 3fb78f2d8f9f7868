"""Baseline `cmaes`: evolutionary merging in the space of parameters.

Akiba et al., "Evolutionary optimization of model merging recipes" (arXiv 2403.13187; Nature Machine
Intelligence 2025), section 3.1: DARE-TIES with a weight and a density for every expert and layer,
evolved by CMA-ES from 0.5 with step 1/6 and a population of 4 + 3 log(n), for a thousand trials.

What deviates: layers are grouped (`search.groups`), since a few hundred evaluations cannot
adapt hundreds of dimensions; embedding and head go with the first group; the paper maximises one
metric, here preferences take turns (`cma_bridge`), each starting from the best under it of what is
known: the middle of the box, the sources, and whatever was found before; populations are smaller
where the budget would not pay for ten generations otherwise; weights are not divided by those that
agree (`normalise=False`), so that the size of the merged task vector is searched as well.
"""

from __future__ import annotations

import numpy as np

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import CmaEsSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.base import Searcher
from hm3rl.search.cma_bridge import SMALLEST, evolve_cma, middle, plan
from hm3rl.search.encoding import LayerGroupEncoding
from hm3rl.search.ledger import KnownPoints, Ledger


class CmaEs(Searcher[CmaEsSettings]):
    """Evolves layer-wise DARE-TIES merges."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        least = self.options.generations * SMALLEST + 1
        if (self.planned or settings.budget) < least:
            raise InputError(
                f"budget={self.planned or settings.budget} does not pay for search.generations="
                f"{self.options.generations} of {SMALLEST} candidates, the smallest population of "
                f"{self.name}, after the one it starts from",
                f"give budget={least} at least, or fewer search.generations",
            )

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        problem.logger.phase(self.name, budget)
        own = self.options
        encoding = LayerGroupEncoding(
            problem.pool.expert_names, problem.pool.num_layers, own.groups
        )
        ledger = Ledger(problem, budget, self.name)
        known = KnownPoints.sources(problem, encoding)
        found = ledger.score([encoding.decode(middle(encoding))])
        known = known.joined(middle(encoding)[None][found.ok], found.vectors)
        planned = min(self.planned or budget, budget) - 1
        divided = plan(planned, own.generations, len(encoding.lower))
        evolve_cma(ledger, encoding, divided, np.random.default_rng(self.seed), known)
        return problem.archive

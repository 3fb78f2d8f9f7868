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

from collections.abc import Sequence

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.paths.candidate import Candidate
from hm3rl.search.cma_bridge import evolve_cma
from hm3rl.search.ledger import Ledger
from hm3rl.search.parameter_level import DECIMALS
from hm3rl.settings import SearchSettings

LOWEST_DENSITY = 0.01


class LayerGroupEncoding:
    """DARE-TIES merges with a weight and a density for each expert and group of layers.

    Vectors lie in [0, 1]^(2 G K): for each group and expert its weight, then its density.

    Args:
        experts: Names of the K experts.
        depth: Layers of the merged model.
        groups: G, at most `depth` are made.
    """

    def __init__(self, experts: Sequence[str], depth: int, groups: int) -> None:
        self.experts = tuple(experts)
        self.depth = depth
        parts = np.array_split(np.arange(depth), min(groups, depth))
        self.group_of = np.concatenate([np.full(len(p), i) for i, p in enumerate(parts)])
        self.shape = (len(parts), len(self.experts), 2)
        self.lower = np.zeros(int(np.prod(self.shape)))
        self.upper = np.ones_like(self.lower)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, 2 G K)."""
        return rng.random((n, len(self.lower)))

    def decode(self, vector: np.ndarray) -> Candidate:
        """The whole merged model a vector of shape (2 G K,) stands for."""
        return Candidate.whole(self.recipe(vector), self.depth)

    def recipe(self, vector: np.ndarray) -> MergeRecipe:
        """The recipe a vector of shape (2 G K,) stands for, rounded as all recipes are."""
        by_group = np.round(np.clip(vector, 0.0, 1.0), DECIMALS).reshape(self.shape)
        weights, densities = by_group[..., 0], np.maximum(by_group[..., 1], LOWEST_DENSITY)
        return MergeRecipe.of(
            "dare_ties",
            self._by_layer(weights),
            densities=self._by_layer(densities),
            normalise=False,
        )

    def _by_layer(self, values: np.ndarray) -> dict[str, list[float]]:
        """Values of shape (G, K) as one anchor for each layer."""
        return {
            name: [float(value) for value in values[self.group_of, column]]
            for column, name in enumerate(self.experts)
        }


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

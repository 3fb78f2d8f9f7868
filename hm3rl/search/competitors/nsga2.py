"""Baselines `nsga2` and `nsga3`: genetic algorithms over merge recipes, or over paths.

NSGA-II (Deb et al., IEEE TEC 2002) and NSGA-III (Deb and Jain, IEEE TEC 2014) as pymoo has them.
Populations are small, since a run has a few hundred evaluations, not tens of thousands.

- `search.space=parameters`: the space of HM3's parameter level (operator, weights, scale, density),
  whose distribution the first population has, with pymoo's operators for real numbers. So what
  differs from `parameter_only` is the optimiser. The sources are among the first parents.
- `search.space=paths`: for each depth who lends its layer (`DepthEncoding`). Two-point crossover
  hands on runs of layers; mutation redraws an entry, since members have no order that polynomial
  mutation could follow. `search.levels` says which members there are; they themselves are the
  first parents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.operators.crossover.pntx import TwoPointCrossover

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import NsgaSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.architecture_level import path_space
from hm3rl.search.encoding import Encoding, RecipeEncoding
from hm3rl.search.evolution import evolve, nsga
from hm3rl.search.ledger import KnownPoints, Ledger
from hm3rl.search.levels import OverPaths
from hm3rl.search.path_encoding import DepthEncoding


class Nsga(OverPaths[NsgaSettings]):
    """Evolves merge recipes or paths; the name says by which of the two algorithms."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        if self.options.space == "parameters":
            if self.options.levels == "paths":
                raise InputError(
                    f"search.levels=paths with search.space=parameters of {self.name}, which "
                    "has no paths",
                    f"choose search={self.name}_paths",
                )
            self.phases = 1

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        pool = problem.pool
        encoding: Encoding
        parts: dict[str, Any] = {}
        if self.options.space == "paths":
            names, _, budget = self.offer_members(problem, budget, rng)
            paths = DepthEncoding(problem, path_space(problem, names, describe=False))
            members = [paths.whole(member) for member in range(len(names))]
            known, encoding = KnownPoints.scored(problem, paths, members), paths
            parts = {"crossover": TwoPointCrossover(prob=0.9), "mutation": Redraw()}
        else:
            recipes = RecipeEncoding(pool.expert_names, self.options.parameter, pool.num_layers)
            known, encoding = KnownPoints.sources(problem, recipes), recipes
        problem.logger.phase(self.name, budget)
        ledger = Ledger(problem, budget, self.name)
        size = self.options.population
        algorithm = nsga(self.name, ledger, encoding, size, rng, known, **parts)
        evolve(ledger, encoding, algorithm, rng, known=known)
        return problem.archive


class Redraw(Mutation):
    """Draws each entry anew with probability 1 / D, uniformly among the integers it may have."""

    def _do(
        self,
        problem: Problem,
        X: np.ndarray,
        *args: Any,
        random_state: np.random.Generator,
        **kwargs: Any,
    ) -> np.ndarray:
        rate = self.get_prob_var(problem, size=len(X))[:, None]
        drawn = np.floor(random_state.uniform(problem.xl, problem.xu + 1, size=X.shape))
        return np.where(random_state.random(X.shape) < rate, np.minimum(drawn, problem.xu), X)

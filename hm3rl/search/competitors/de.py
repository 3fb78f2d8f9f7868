"""Baseline `de`: differential evolution over merge recipes, one preference to each individual.

DE/rand/1/bin (Storn and Price, 1997) with F = 0.5 and CR = 0.5, as pymoo has it. Differential
evolution has one objective; HM3's Table 7 does not say which. Here individual i minimises the
Tchebycheff distance under a preference lambda_i of its own, so its child replaces it if it is
better under lambda_i, while differences are taken across the whole population: the decomposition
of MOEA/D-DE (Li and Zhang, IEEE TEC 2009) without its neighbourhoods, which a population this small
does not need. The space is that of HM3's parameter level. The sources are members of the first
population, each where its preference likes it most.
"""

from __future__ import annotations

import numpy as np
from pymoo.algorithms.soo.nonconvex.de import DE, Variant
from pymoo.operators.control import NoParameterControl

from hm3rl.config.searchers import EvolutionSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.search.base import Searcher
from hm3rl.search.encoding import RecipeEncoding
from hm3rl.search.evolution import directions, evolve
from hm3rl.search.ledger import KnownPoints, Ledger

F, CR = 0.5, 0.5


class DifferentialEvolution(Searcher[EvolutionSettings]):
    """Evolves merge recipes under many preferences at once."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        problem.logger.phase(self.name, budget)
        pool = problem.pool
        encoding = RecipeEncoding(pool.expert_names, self.options.parameter, pool.num_layers)
        size = self.options.population
        known = KnownPoints.sources(problem, encoding)
        known = KnownPoints(*(values[: size - 1] for values in known))
        preferences = fitting_first(
            spread_preferences(size, len(problem.objectives), rng), known.scores
        )

        def fitness(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
            return -tchebycheff(scores, preferences[places])[:, None]

        variant = Variant(selection="rand", F=F, CR=CR, prob_mut=0.0, control=NoParameterControl)
        drawn = encoding.sample(size - len(known.vectors), rng)
        algorithm = DE(pop_size=size, sampling=drawn, variant=variant)
        evolve(Ledger(problem, budget, self.name), encoding, algorithm, rng, fitness, known)
        return problem.archive


def fitting_first(preferences: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Preferences in another order: the first one likes the first point most, and so on.

    Args:
        preferences: Shape (n, k).
        scores: f / z* of at most n points, shape (m, k).

    Returns:
        Shape (n, k), the same rows; those that no point took keep their order.
    """
    left = list(range(len(preferences)))
    first = []
    for point in scores:
        utilities = tchebycheff(np.tile(point, (len(left), 1)), preferences[left])
        first.append(left.pop(int(np.argmax(utilities))))
    return preferences[first + left]


def spread_preferences(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Preferences that cover the simplex: a lattice, filled up at random.

    Args:
        n: How many.
        k: Number of objectives.
        rng: Source of randomness.

    Returns:
        Shape (n, k), rows on the simplex, in random order.
    """
    lattice = directions(k, n)[:n]
    rows = np.concatenate([lattice, sample_dirichlet(n - len(lattice), k, rng)])
    return rows[rng.permutation(n)]

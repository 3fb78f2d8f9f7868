"""Baseline `grid`: merge recipes on a grid, the finest that the budget pays for.

Level r has r densities, equally spaced over their range (one: the middle), for every operator, and
free weights of r + 1 divisions of [0, 1] each, without zero for all; weights on the simplex are a
lattice of r + 1 divisions, with r scales. The finest level that fits is
visited first, in random order, so that a cut does not leave out a corner; what is left of the
budget goes to points of the next finer levels, which fall between. HM3's Table 7 compares itself
with a grid search of which nothing but the name is stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from hm3rl.config.searchers import MergingSettings, ParameterSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.traits import traits_of
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.paths.candidate import Candidate
from hm3rl.search.base import Searcher
from hm3rl.search.ledger import Ledger
from hm3rl.search.parameter_level import BATCH, DECIMALS


def grid_recipes(
    experts: Sequence[str], settings: ParameterSettings, level: int
) -> list[MergeRecipe]:
    """All different recipes of one level, operator by operator.

    Args:
        experts: Names of the experts.
        settings: Operators and ranges.
        level: r, at least 1.

    Returns:
        The recipes, without those the operator cannot carry out (slerp merges exactly two).
    """
    free = settings.weights == "free"
    if free:
        steps = np.linspace(0.0, 1.0, level + 2)
        lattice = np.array(list(product(steps, repeat=len(experts)))[1:])
    else:
        lattice = simplex_lattice(len(experts), level + 1)
    scales = _levels(settings.scale_min, settings.scale_max, level)
    densities = _levels(settings.density_min, settings.density_max, level)
    found: dict[str, MergeRecipe] = {}
    for operator in settings.operators:
        traits = traits_of(operator)
        for weights in lattice:
            count = int((weights > 0).sum())
            if count < traits.fewest or traits.experts not in (None, count):
                continue
            pairs = tuple(
                (name, round(float(w), DECIMALS)) for name, w in zip(experts, weights, strict=True)
            )
            for scale in scales if traits.scale and not free else (1.0,):
                for density in densities if traits.density else (1.0,):
                    recipe = MergeRecipe(
                        operator,
                        pairs,
                        density=density,
                        scale=scale,
                        normalise=False if free else None,
                    )
                    found.setdefault(recipe.key, recipe)
    return list(found.values())


def _levels(low: float, high: float, count: int) -> list[float]:
    values = [(low + high) / 2] if count == 1 else np.linspace(low, high, count)
    return [round(float(value), DECIMALS) for value in values]


class Grid(Searcher[MergingSettings]):
    """Visits the points of a grid."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        problem.logger.phase(self.name, budget)
        experts, parameter = problem.pool.expert_names, self.options.parameter
        level, points = 1, grid_recipes(experts, parameter, 1)
        while len(finer := grid_recipes(experts, parameter, level + 1)) <= (self.planned or budget):
            if len(finer) <= len(points):
                break
            level, points = level + 1, finer
        ledger = Ledger(problem, budget, self.name)
        while ledger.left:
            candidates = [Candidate.whole(r, problem.pool.num_layers) for r in points]
            new = [candidates[i] for i in rng.permutation(len(candidates))]
            new = [candidate for candidate in new if ledger.is_new(candidate)]
            if not new:
                break
            for start in range(0, min(len(new), ledger.left), BATCH):
                ledger.score(new[start : start + BATCH])
            level += 1
            points = grid_recipes(experts, parameter, level)
        return problem.archive

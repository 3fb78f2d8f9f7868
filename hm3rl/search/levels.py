"""Which members the path-space competitors may stitch: the sources, or HM3's merged members too.

A path can be no better than its members, so a method that only ever sees the sources would lose to
HM3 by its pool, not by its search. With `search.levels=both` (the default) a competitor therefore
spends the same share of its budget on the same parameter level as HM3 and offers the same number of
merged members; with `paths` it is the method as published, over the sources alone.

What the parameter level scored is known to all of them, as it is to HM3. Each makes of it what its
kind can: parents (`nsga2`), starting points (`cmaes_dfs`), what a model is fitted to (`depth_wise`,
merges that are not offered included), demonstrations (`rmm`). `random` learns from nothing.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import OverPathsSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.search.base import Searcher
from hm3rl.search.level_sampler import level_share, sample_recipes
from hm3rl.search.parameter_level import search_recipes, select_members

Options = TypeVar("Options", bound=OverPathsSettings)


CHANGES = 2
"""Places of a known whole member that a first path changes on average, where a method starts from
one and varies it at random."""


class Offer(NamedTuple):
    """What the parameter level hands to a competitor.

    Attributes:
        names: Members offered: experts, then merged members, best first; without a parameter level
            the experts and the base.
        others: Recipes that were scored but are not offered.
        left: What is left of the budget.
    """

    names: list[str]
    others: list[MergeRecipe]
    left: int


class OverPaths(Searcher[Options]):
    """A searcher over paths, with or without HM3's parameter level before it.

    Args:
        settings: The run; `settings.search` has `levels`, `parameter_share` and `parameter`.
    """

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.merges = self.options.levels == "both"
        self.phases = 2 if self.merges else 1

    def offer_members(
        self, problem: MergeProblem, budget: int, rng: np.random.Generator, vary: bool = True
    ) -> Offer:
        """Run the parameter level, if there is one, and name the members for the paths.

        Args:
            problem: Prepared problem.
            budget: Evaluations of the whole search.
            rng: Source of randomness.
            vary: See `search_recipes`.
        """
        experts = list(problem.pool.expert_names)
        if self.options.levels == "paths":
            return Offer([*experts, problem.pool.base_name], [], budget)
        planned = min(self.planned or budget, budget)
        parameter = min(self.for_merges(planned, len(experts)), budget - 1)
        problem.logger.phase("parameter", parameter)
        before = problem.used
        level = self.options.parameter
        if vary:
            recipes = sample_recipes(problem, parameter, level, rng, "parameter")
        else:
            recipes = search_recipes(problem, parameter, level, rng, "parameter", vary=False)
        chosen = select_members(problem, recipes, level.members)
        left = budget - round(problem.used - before)
        names = [*experts, *(problem.members.add(recipe) for recipe in chosen)]
        return Offer(names, [recipe for recipe in recipes if recipe not in chosen], left)

    def for_merges(self, planned: int, experts: int) -> int:
        """The parameter level's part of a planned budget, with so many experts to merge."""
        if self.options.levels == "paths":
            return 0
        share = level_share(self.options.parameter_share, planned, experts)
        return max(round(planned * share), 1)

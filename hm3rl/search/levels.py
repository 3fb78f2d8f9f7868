"""Which members the path-space competitors may stitch: the sources, or HM3's merged members too.

A path can be no better than its members, so a method that only ever sees the sources would lose to
HM3 by its pool, not by its search. With `search.levels=both` (the default) a competitor therefore
spends the same share of its budget on the same parameter level as HM3 and offers the same number of
merged members; with `paths` it is the method as published, over the sources alone.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import OverPathsSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.search.base import Searcher
from hm3rl.search.level_sampler import level_share, sample_recipes
from hm3rl.search.parameter_level import search_recipes, select_members

Options = TypeVar("Options", bound=OverPathsSettings)


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
    ) -> tuple[list[str], int]:
        """Run the parameter level, if there is one, and name the members for the paths.

        Args:
            problem: Prepared problem.
            budget: Evaluations of the whole search.
            rng: Source of randomness.
            vary: See `search_recipes`.

        Returns:
            The members offered (experts, then merged members, best first; without a parameter
            level the experts and the base), and what is left of the budget.
        """
        experts = list(problem.pool.expert_names)
        if self.options.levels == "paths":
            return [*experts, problem.pool.base_name], budget
        planned = min(self.planned or budget, budget)
        share = level_share(self.options.parameter_share, planned, len(experts))
        parameter = min(max(round(planned * share), 1), budget - 1)
        problem.logger.phase("parameter", parameter)
        before = problem.used
        level = self.options.parameter
        if vary:
            recipes = sample_recipes(problem, parameter, level, rng, "parameter")
        else:
            recipes = search_recipes(problem, parameter, level, rng, "parameter", vary=False)
        chosen = select_members(problem, recipes, level.members)
        left = budget - round(problem.used - before)
        return [*experts, *(problem.members.add(recipe) for recipe in chosen)], left

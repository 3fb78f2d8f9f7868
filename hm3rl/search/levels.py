"""Which members the path-space competitors may stitch: the sources, or HM3's merged members too.

A path can be no better than its members, so a method that only ever sees the sources would lose to
HM3 by its pool, not by its search. With `search.levels=both` (the default) a competitor therefore
spends the same share of its budget on the same parameter level as HM3 and offers the same number of
merged members; with `paths` it is the method as published, over the sources alone.
"""

from __future__ import annotations

import numpy as np

from hm3rl.config.schema import SearchSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.search.level_sampler import level_share, sample_recipes
from hm3rl.search.parameter_level import search_recipes, select_members


def phases(settings: SearchSettings) -> int:
    """Phases that each need at least one evaluation."""
    return 2 if settings.levels == "both" else 1


def offer_members(
    problem: MergeProblem,
    settings: SearchSettings,
    budget: int,
    planned: int,
    rng: np.random.Generator,
    vary: bool = True,
) -> tuple[list[str], int]:
    """Run the parameter level, if there is one, and name the members for the paths.

    Args:
        problem: Prepared problem.
        settings: Levels, share of the parameter level, what it searches.
        budget: Evaluations of the whole search.
        planned: Budget the share refers to; 0: `budget`.
        rng: Source of randomness.
        vary: See `search_recipes`.

    Returns:
        The members offered (experts, then merged members, best first; without a parameter level
        the experts and the base), and what is left of the budget.
    """
    experts = list(problem.pool.expert_names)
    if settings.levels == "paths":
        return [*experts, problem.pool.base_name], budget
    planned = min(planned or budget, budget)
    share = level_share(settings, planned, len(experts))
    parameter = min(max(round(planned * share), 1), budget - 1)
    problem.logger.phase("parameter", parameter)
    before = problem.charged
    if vary:
        recipes = sample_recipes(problem, parameter, settings, rng, "parameter")
    else:
        recipes = search_recipes(
            problem, parameter, settings.parameter, rng, "parameter", vary=False
        )
    chosen = select_members(problem, recipes, settings.parameter.members)
    left = budget - round(problem.charged - before)
    return [*experts, *(problem.members.add(recipe) for recipe in chosen)], left

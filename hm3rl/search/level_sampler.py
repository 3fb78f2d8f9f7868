"""Which sampler spends the parameter level's budget: `search.parameter.sampler`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.search.model_based import search_by_model
from hm3rl.search.parameter_level import search_recipes
from hm3rl.settings import SearchSettings

SAMPLERS = ("gp", "elites", "mm_mo")


def sample_recipes(
    problem: MergeProblem,
    budget: int,
    settings: SearchSettings,
    rng: np.random.Generator,
    phase: str,
    planned: int = 0,
    scored_batch: Callable[[Sequence[MergeRecipe]], None] | None = None,
) -> list[MergeRecipe]:
    """Spend a budget on merged models with the sampler of the settings.

    Args:
        problem: Prepared problem.
        budget: Evaluations to charge.
        settings: The searcher's settings.
        rng: Source of randomness.
        phase: Name under which the evaluations are logged.
        planned: Budget that a warm-up's share refers to; 0: `budget`.
        scored_batch: Hears of each batch that was scored, while its models are in memory still.

    Returns:
        The recipes that got a score, in the order charged.
    """
    if settings.parameter.sampler == "mm_mo":
        # Imported here: it needs the extra `baselines`.
        from hm3rl.search.mm_mo import search_merges

        return search_merges(problem, budget, settings.mm_mo, rng, phase, scored_batch)
    search = search_by_model if settings.parameter.sampler == "gp" else search_recipes
    return search(
        problem, budget, settings.parameter, rng, phase, planned=planned, scored_batch=scored_batch
    )

"""How large the parameter level's budget is, and which sampler spends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hm3rl.config.searchers import HM3Settings, ParameterSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.search.model_based import search_by_model
from hm3rl.search.parameter_level import search_recipes

SHARE = 0.2
"""Of the budget for the parameter level, where that suffices; how it was chosen: `search.hm3`."""

LEAST = 20
"""Evaluations of the parameter level with three experts, where the budget allows."""


def level_share(
    share: float | None, planned: int, experts: int, offline: float = HM3Settings.offline_share
) -> float:
    """The parameter level's share of a budget.

    Unless the settings say otherwise, `SHARE`, and no less than `LEAST` evaluations with three
    experts, twice as many for each expert more: the merges that join the pool are to fill a front
    that has one dimension more then. It is never more than the online phase has.

    Measured with budget 100 on the tiny zoo, hypervolume on the search split, seeds 10 and 11 (in
    no table), a share of 0.2 and of 0.5: with four experts 0.085 and 0.123, 0.098 and 0.108; with
    five 0.0184 and 0.0186, 0.0152 and 0.0209. With three, seeds 10 to 12, 0.2 and 0.32: 0.758 and
    0.785, 0.777 and 0.788, 0.778 and 0.728.

    Args:
        share: What the settings say; None: nothing.
        planned: Evaluations the shares refer to, at least 1.
        experts: How many there are to merge.
        offline: The offline phase's share; competitors, which have none, get as much as HM3.

    Returns:
        In (0, 1), of `planned`.
    """
    if share is not None:
        return share
    least = LEAST * 2.0 ** (experts - 3) / planned
    return max(SHARE, min(least, (1.0 - offline) / 2))


def sample_recipes(
    problem: MergeProblem,
    budget: int,
    settings: ParameterSettings,
    rng: np.random.Generator,
    phase: str,
    planned: int = 0,
    scored_batch: Callable[[Sequence[MergeRecipe]], None] | None = None,
) -> list[MergeRecipe]:
    """Spend a budget on merged models with the sampler of the settings.

    Args:
        problem: Prepared problem.
        budget: Evaluations to charge.
        settings: The parameter level.
        rng: Source of randomness.
        phase: Name under which the evaluations are logged.
        planned: Budget that a warm-up's share refers to; 0: `budget`.
        scored_batch: Hears of each batch that was scored, while its models are in memory still.

    Returns:
        The recipes that got a score, in the order charged.
    """
    if settings.sampler == "mm_mo":
        # Imported here: it needs the extra `baselines`.
        from hm3rl.search.competitors.mm_mo import search_merges

        return search_merges(problem, budget, settings.mm_mo, rng, phase, scored_batch)
    search = search_by_model if settings.sampler == "gp" else search_recipes
    return search(problem, budget, settings, rng, phase, planned=planned, scored_batch=scored_batch)

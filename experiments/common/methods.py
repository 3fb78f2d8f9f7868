"""The methods of the tables, as Hydra overrides, and which of them plan by their budget."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.common.plan import Variant

METHODS: dict[str, tuple[str, ...]] = {
    "hm3": ("search=hm3",),
    "parameter_only": ("search=parameter_only",),
    "architecture_only": ("search=architecture_only",),
    "no_offline": ("search=no_offline",),
    "random": ("search=random",),
    "grid": ("search=grid",),
    "nsga2": ("search=nsga2",),
    "de": ("search=de",),
    "cmaes": ("search=cmaes",),
    "nsga2_paths": ("search=nsga2_paths",),
    "cmaes_dfs": ("search=cmaes_dfs",),
    "rmm": ("search=rmm",),
    "depth_wise": ("search=depth_wise",),
    "mm_mo": ("search=mm_mo",),
    "map": ("search=map",),
}

UNPLANNED = frozenset({"nsga2", "de"})
"""Methods whose decisions do not depend on the budget: the first 100 evaluations of a search of 300
are a search of 100. All others divide the budget among phases, and are run at each budget."""


def method(name: str, seeds: Mapping[int, int]) -> Variant:
    """A method at some budgets; smaller budgets are prefixes of the largest where that is the same.

    Args:
        name: Key of `METHODS`.
        seeds: Number of seeds by budget.
    """
    if name not in UNPLANNED:
        return Variant(METHODS[name], seeds)
    longest = max(seeds)
    prefixes = tuple(budget for budget in seeds if budget != longest)
    return Variant(METHODS[name], {longest: seeds[longest]}, prefixes)

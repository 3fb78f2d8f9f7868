"""Theta(lambda): the merge that HM3's parameter level makes for a preference (equation (5))."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hm3rl.config.searchers import ParameterSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.preferences import snap_to_lattice
from hm3rl.paths.candidate import Candidate

DIVISIONS = 10
"""H of the lattice: with three tasks at most 66 different merges, whatever is asked for."""


def theta(
    preference: np.ndarray, experts: Sequence[str], settings: ParameterSettings
) -> MergeRecipe:
    """Recipe of Theta(lambda), lambda snapped to the lattice; networks see the exact lambda.

    The paper gives neither drop rate nor scale: both are the middles of their ranges here.

    Args:
        preference: Shape (K,).
        experts: Names of the K experts, in the order of the tasks they are expert in.
        settings: Operator and ranges.

    Returns:
        The same recipe for all preferences that snap to the same point.
    """
    weights = snap_to_lattice(preference, DIVISIONS)
    return MergeRecipe(
        operator=settings.operators[0],
        weights=tuple(zip(experts, (float(w) for w in weights), strict=True)),
        scale=(settings.scale_min + settings.scale_max) / 2,
        density=(settings.density_min + settings.density_max) / 2,
    )


def merge_for(
    problem: MergeProblem, preferences: np.ndarray, settings: ParameterSettings
) -> list[str]:
    """Make and score Theta(lambda) for each preference.

    Args:
        problem: Charged once for each different merge.
        preferences: Shape (N, K).
        settings: Operator and ranges.

    Returns:
        Names of the members, one for each preference, repeats possible.
    """
    experts = problem.pool.expert_names
    if set(experts) == set(problem.objectives):  # named by task: whatever order they were given in
        experts = problem.objectives
    recipes = [theta(p, experts, settings) for p in preferences]
    different = list(dict.fromkeys(recipes))
    depth = problem.pool.num_layers
    problem.evaluate([Candidate.whole(recipe, depth) for recipe in different], "parameter")
    return [problem.members.add(recipe) for recipe in recipes]

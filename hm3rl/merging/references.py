"""Merges that nobody has to search for: what a search is held against."""

from __future__ import annotations

from collections.abc import Sequence

from hm3rl.merging.recipe import MergeRecipe

SCALES = (0.3, 0.5, 1.0)
"""Scales of the uniform blend."""


def uniform_blends(experts: Sequence[str]) -> dict[str, MergeRecipe]:
    """1/K of each expert's task vector, times a scale: what costs nothing to know.

    Args:
        experts: Names of the K experts, which can all be merged.

    Returns:
        A recipe for each scale, by what a table calls it.
    """
    weights = dict.fromkeys(experts, 1.0 / len(experts))
    return {
        f"uniform {scale:g}": MergeRecipe.of("task_arithmetic", weights, scale=scale)
        for scale in SCALES
    }

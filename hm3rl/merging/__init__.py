"""Parameter level: recipes, operators, cached task vectors, merged weights in memory."""

from __future__ import annotations

from hm3rl.merging.recipe import MergeRecipe

__all__ = ["MergeRecipe"]

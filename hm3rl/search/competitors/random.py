"""Baseline `random`: HM3's space and split of the budget, without learning anything.

Recipes are drawn at random for the parameter level's share; the best of them join the experts, as
in HM3; the rest of the budget goes to uniformly random legal paths through those members. What the
members scored does not matter to it.
"""

from __future__ import annotations

import numpy as np

from hm3rl.config.searchers import OverPathsSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.variation import random_walk
from hm3rl.search.architecture_level import path_scorer, path_space
from hm3rl.search.levels import OverPaths
from hm3rl.search.parameter_level import ATTEMPTS, BATCH


class RandomSearch(OverPaths[OverPathsSettings]):
    """Random recipes, then random paths."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        names, _, left = self.offer_members(problem, budget, rng, vary=False)
        space = path_space(problem, names, describe=False)
        problem.logger.phase("random paths", left)
        score = path_scorer(problem, "random paths")
        known: set[LayerPath] = set()
        spent = budget - left
        while spent < budget:
            batch: list[LayerPath] = []
            for _ in range(ATTEMPTS):
                path = space.decode(random_walk(space, rng))
                if path not in known:
                    known.add(path)
                    batch.append(path)
                if len(batch) == min(BATCH, budget - spent):
                    break
            if not batch:
                break  # a small space: every legal path is known
            before = problem.remaining
            score(batch)
            spent += before - problem.remaining
        return problem.archive

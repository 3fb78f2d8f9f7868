"""Two simple searches at equal budget: merges only, and merges followed by layer-wise paths.

Both are deliberately plain (random draws; a local search with mutation and crossover), so that
what they find is a property of the zoo and not of a clever optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.indicators import hypervolume
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.members import MemberSet

OPERATORS = ("task_arithmetic", "ties", "dare_ties")

Score = Callable[[Sequence[Candidate]], np.ndarray]
"""Scores candidates; returns f / z*, shape (N, K)."""


def draw_recipe(members: MemberSet, number: int, rng: np.random.Generator) -> MergeRecipe:
    """Draw a merge: operators in turn, λ ~ Dirichlet(1), scale 0.6 to 3, density 0.2 to 0.9."""
    experts = members.pool.expert_names
    weights = rng.dirichlet(np.ones(len(experts)))
    return MergeRecipe.of(
        OPERATORS[number % len(OPERATORS)],
        dict(zip(experts, weights.tolist(), strict=True)),
        scale=float(rng.uniform(0.6, 3.0)),
        density=float(rng.uniform(0.2, 0.9)),
        seed=number,
    )


def score_merges(
    members: MemberSet, score: Score, count: int, rng: np.random.Generator
) -> tuple[list[MergeRecipe], np.ndarray]:
    """Draw and score merges.

    Returns:
        The recipes and their points, shape (count, K).
    """
    recipes = [draw_recipe(members, number, rng) for number in range(count)]
    for recipe in recipes:
        members.add(recipe)
    return recipes, score([Candidate.whole(r, members.pool.num_layers) for r in recipes])


def pick_members(points: np.ndarray, sources: np.ndarray, count: int) -> list[int]:
    """Choose merges greedily by the hypervolume they add to the experts' own points."""
    chosen: list[int] = []
    for _ in range(count):
        rest = [i for i in range(len(points)) if i not in chosen]
        front = np.concatenate([sources, points[chosen]])
        gains = [
            hypervolume(np.concatenate([front, points[i : i + 1]])) + 1e-3 * points[i].mean()
            for i in rest
        ]
        chosen.append(rest[int(np.argmax(gains))])
    return chosen


def search_paths(
    members: MemberSet,
    score: Score,
    known: dict[str, np.ndarray],
    recipes: Sequence[MergeRecipe],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Search same-depth paths (stem included) from the known whole members.

    Each new path takes the best known one under a random preference and copies a stretch from
    another known path, or changes one or two places.

    Args:
        members: The member set.
        score: Scores candidates.
        known: Point of each whole member the paths may use, shape (K,) by name.
        recipes: Recipes of the merged ones among them.
        count: Paths to score.
        rng: Source of randomness.

    Returns:
        Their points, in order, shape (count, K).
    """
    names, depth = list(known), members.pool.num_layers
    elite = [((index,) * (depth + 1), known[name]) for index, name in enumerate(names)]
    seen = {path for path, _ in elite}
    points: list[np.ndarray] = []
    while len(points) < count:
        preference = rng.dirichlet(np.ones(len(elite[0][1])))
        parent = max(elite, key=lambda entry: float(preference @ entry[1]))[0]
        child = list(parent)
        if rng.random() < 0.35:
            other = elite[rng.integers(len(elite))][0]
            start, stop = sorted(rng.integers(0, depth + 2, size=2))
            child[start:stop] = other[start:stop]
        else:
            for place in rng.integers(0, depth + 1, size=1 + rng.integers(2)):
                child[place] = int(rng.integers(len(names)))
        if tuple(child) in seen:
            continue
        seen.add(tuple(child))
        layers = tuple(LayerRef(names[m], depth_) for depth_, m in enumerate(child[1:]))
        path = LayerPath(layers, names[child[0]])
        point = score([Candidate.of(path, recipes)])[0]
        elite.append((tuple(child), point))
        points.append(point)
    return np.array(points)

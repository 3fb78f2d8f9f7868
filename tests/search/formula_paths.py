"""A `MergeProblem` over paths whose scores are a formula: thousands of evaluations a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.round import Scored
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.limits import PathLimits

DEPTH = 4
ITEMS = 36

Fails = Callable[[Candidate], bool]


class FormulaMembers:
    """Members with nothing in them but a worth of each layer for each task."""

    def __init__(self, experts: Sequence[str]) -> None:
        self.pool = SimpleNamespace(
            expert_names=tuple(experts),
            base_name="base",
            num_layers=DEPTH,
            names=(*experts, "base"),
        )
        self.recipe_of: dict[str, MergeRecipe] = {}
        rng = np.random.default_rng(7)
        # Every expert has layers that help other tasks, so stitched paths beat all experts.
        self.worth = {e: 0.8 * rng.random((DEPTH, len(experts))) for e in (*experts, "base")}
        for task, expert in enumerate(experts):
            self.worth[expert][:, task] += 0.2

    @property
    def recipes(self) -> tuple[MergeRecipe, ...]:
        return tuple(self.recipe_of.values())

    def add(self, recipe: MergeRecipe) -> str:
        self.recipe_of[recipe.name] = recipe
        return recipe.name

    def num_layers(self, name: str) -> int:
        return DEPTH

    def can_follow(self, before: str, after: str) -> bool:
        return True

    def recipe_features(self, name: str) -> np.ndarray:
        recipe = self.recipe_of.get(name)
        weights = {name: 1.0} if recipe is None else dict(recipe.weights)
        row = [weights.get(expert, 0.0) for expert in self.pool.expert_names]
        return np.array([*row, 1.0, 1.0, float(recipe is not None)], np.float32)

    def layer(self, name: str, layer: int) -> np.ndarray:
        """Worth of a layer, shape (K,)."""
        recipe = self.recipe_of.get(name)
        if recipe is None:
            return self.worth[name][layer]
        return sum(w * self.worth[e][layer] for e, w in recipe.weights) * 0.8


class PathEvaluator:
    """A path is worth the mean of its layers for each task, less if its length is unusual."""

    def __init__(self, members: FormulaMembers, fails: Fails) -> None:
        self.members = members
        self.objectives = members.pool.expert_names
        self.fails = fails
        self.asked: list[Candidate] = []

    def prepare(self, split: str) -> None:
        """Nothing to prepare."""

    def items(self, split: str, fidelity: Any) -> Mapping[str, Sequence[int]]:
        count = max(round(Fidelity.parse(fidelity).share * ITEMS), 2)
        return {task: range(count) for task in self.objectives}

    def key(self, candidate: Candidate) -> str:
        return candidate.key({name: name for name in self.members.pool.names})

    def vector(self, candidate: Candidate) -> np.ndarray:
        path = candidate.path
        for recipe in candidate.recipes:
            self.members.add(recipe)
        worth = np.mean([self.members.layer(r.member, r.layer) for r in path.refs], axis=0)
        stem = self.members.layer(path.stem, 0)
        return (0.1 + 0.7 * worth + 0.1 * stem) * np.exp(-0.1 * abs(path.length - DEPTH))

    def stream(self, candidates: Sequence[Candidate], fidelity: Any = "full") -> Iterator[Scored]:
        for candidate in candidates:
            self.asked.append(candidate)
            key, fidelity = self.key(candidate), Fidelity.parse(fidelity)
            if self.fails(candidate):
                failure = Evaluation.failure(
                    key, "search", self.objectives, "it broke", {}, str(fidelity)
                )
                yield Scored(failure, False)
                continue
            seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
            noise = np.random.default_rng(seed).normal(0, 0.1, (len(self.objectives), ITEMS))
            noise -= noise.mean(axis=1, keepdims=True)
            exact = self.vector(candidate)
            items = {
                task: [float(exact[k] + noise[k, i]) for i in numbers]
                for k, (task, numbers) in enumerate(self.items("search", fidelity).items())
            }
            numbers = self.items("search", fidelity)
            yield Scored(
                Evaluation.of_items(
                    key, "search", items, items, None, {}, items=numbers, fidelity=str(fidelity)
                ),
                False,
            )


def path_problem(
    k: int = 3,
    budget: int = 60,
    limits: PathLimits | None = None,
    fails: Fails = lambda candidate: False,
) -> MergeProblem:
    """A prepared problem with k experts `e0` ..., as many tasks, and four layers each."""
    members = FormulaMembers(tuple(f"e{i}" for i in range(k)))
    problem = MergeProblem(
        members,  # type: ignore[arg-type]
        PathEvaluator(members, fails),  # type: ignore[arg-type]
        limits or PathLimits(DEPTH, DEPTH, actions="same_depth"),
        budget,
    )
    problem.prepare()
    return problem


ANY = PathLimits(2, 7)
"""Limits that allow repeats, skips and jumps."""

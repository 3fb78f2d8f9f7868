"""A `MergeProblem` whose scores are a formula of the recipe: thousands of evaluations a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.round import Scored
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.limits import PathLimits

DEPTH = 4

Formula = Callable[[MergeRecipe, Sequence[str]], np.ndarray]


def trade_off(recipe: MergeRecipe, experts: Sequence[str]) -> np.ndarray:
    """Each expert's share helps its own task; all want a scale of 2 and a density of a half."""
    weights = np.array([abs(dict(recipe.weights).get(name, 0.0)) for name in experts])
    shares = weights / max(weights.sum(), 1e-9)
    density = np.mean([recipe.density_of(name) for name in recipe.experts] or [1.0])
    reach = recipe.scale * max(weights.sum(), 1e-9)
    return 0.2 + 0.8 * np.sqrt(shares) * np.exp(-0.3 * (reach - 2) ** 2 - (density - 0.5) ** 2)


def recipe_of(candidate: Candidate, experts: Sequence[str]) -> MergeRecipe | None:
    """What a formula takes for a candidate: its merge, its mean blend, or nothing for a source."""
    if candidate.recipes:
        return candidate.recipes[0]
    if len(candidate.members) == 1 and candidate.path.stem in ("base", *experts):
        return None
    blends = BlendSpace(tuple(experts), DEPTH).encode(candidate)
    assert blends is not None
    weights = dict(zip(experts, blends.mean(axis=0).tolist(), strict=True))
    return MergeRecipe.of("task_arithmetic", weights)


class FormulaEvaluator:
    """Stands in for the evaluator: an expert scores 0.9 on its own task and 0.2 on others."""

    def __init__(
        self, experts: Sequence[str], formula: Formula, fails: Callable[[MergeRecipe], bool]
    ) -> None:
        self.objectives = tuple(experts)
        self.formula = formula
        self.fails = fails

    def prepare(self, split: str) -> None:
        """Nothing to prepare."""

    def items(self, split: str, fidelity: Any) -> Mapping[str, Sequence[int]]:
        return {task: range(2) for task in self.objectives}

    def key(self, candidate: Candidate) -> str:
        return candidate.key({name: name for name in ("base", *self.objectives)})

    def stream(self, candidates: Sequence[Candidate], fidelity: Any = None) -> Iterator[Scored]:
        for candidate in candidates:
            key = self.key(candidate)
            recipe = recipe_of(candidate, self.objectives)
            if recipe is not None and self.fails(recipe):
                failure = Evaluation.failure(key, "search", self.objectives, "it broke", {})
                yield Scored(failure, False)
                continue
            if recipe is not None:
                vector = self.formula(recipe, self.objectives)
            else:
                vector = np.array(
                    [0.9 if candidate.path.stem == t else 0.2 for t in self.objectives]
                )
            items = {t: [float(v)] * 2 for t, v in zip(self.objectives, vector, strict=True)}
            yield Scored(Evaluation.of_items(key, "search", items, items, None, {}), False)


def formula_problem(
    k: int = 3,
    budget: int = 60,
    formula: Formula = trade_off,
    fails: Callable[[MergeRecipe], bool] = lambda recipe: False,
) -> MergeProblem:
    """A prepared problem with k experts `e0` ... and as many tasks of the same names."""
    experts = tuple(f"e{i}" for i in range(k))
    pool = SimpleNamespace(
        expert_names=experts, mergeable=experts, base_name="base", num_layers=DEPTH
    )
    members = SimpleNamespace(pool=pool, num_layers=lambda name: DEPTH)
    problem = MergeProblem(
        members,  # type: ignore[arg-type]
        FormulaEvaluator(experts, formula, fails),  # type: ignore[arg-type]
        PathLimits(DEPTH, DEPTH),
        budget,
    )
    problem.prepare()
    return problem


def decisions(problem: MergeProblem) -> list[str]:
    """Keys in the order charged."""
    return [point.key for point in problem.trace]

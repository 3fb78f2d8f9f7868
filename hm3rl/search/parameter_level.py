"""The parameter level: search over merge recipes, and the choice of those that join the pool.

HM3 makes one DARE-TIES merge per preference (section 3, equation (5)). Here recipes are searched.
This is `search.parameter.sampler=elites`: a share of the evaluations is drawn at random, then
recipes on the front are varied, each time the best one under a random preference, so that all of
the front is improved; recipes that failed are no parents. The default, `gp`, stands in
`model_based`; `level_sampler` chooses. `hm3` and its ablation `parameter_only` use the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hm3rl import registry
from hm3rl.config.searchers import ParameterSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.traits import operator_names, traits_of
from hm3rl.objectives.indicators import hypervolume
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.paths.candidate import Candidate

BATCH = 10
ATTEMPTS = 500
"""Draws without anything new after which a space counts as exhausted."""

DECIMALS = 4


def check_operators(key: str, operators: Sequence[str]) -> None:
    """Refuse a list of operators that is empty or has one that nobody registered.

    Raises:
        InputError: Names the key.
    """
    if not operators:
        raise InputError(f"{key} is empty", f"give one or more of {', '.join(operator_names())}")
    for operator in operators:
        traits_of(operator)


def check_level(settings: ParameterSettings) -> None:
    """Refuse a parameter level in which nothing can be searched.

    Raises:
        InputError: Names the key, its value and the way out.
    """
    for least, most in (("scale_min", "scale_max"), ("density_min", "density_max")):
        low, high = getattr(settings, least), getattr(settings, most)
        if low > high:
            raise InputError(
                f"search.parameter.{least}={low} is above search.parameter.{most}={high}",
                f"give {least} <= {most}",
            )
    check_operators("search.parameter.operators", settings.operators)
    for operator in settings.operators:
        if settings.weights == "free" and not traits_of(operator).scale:
            raise InputError(
                f"search.parameter.weights=free with {operator}, which merges whole models",
                "use operators of task vectors, such as task_arithmetic, or weights=simplex",
            )
    if settings.sampler == "mm_mo":
        registry.find("searcher", "mm_mo").check_packages()


class RecipeSampler:
    """Draws and varies merge recipes.

    Args:
        experts: Names of the experts.
        settings: Operators and ranges.
        rng: Source of randomness.
    """

    def __init__(
        self, experts: Sequence[str], settings: ParameterSettings, rng: np.random.Generator
    ) -> None:
        self.experts = tuple(experts)
        self.settings = settings
        self.rng = rng
        self.free = settings.weights == "free"

    def draw(self) -> MergeRecipe:
        """A recipe at random: operator, weights, scale and density, each uniform in its range.

        Weights are uniform on the simplex, or free: each uniform in [0, 1], and no scale.
        """
        low, high = self.settings.scale_min, self.settings.scale_max
        operator = str(self.rng.choice(self.settings.operators))
        if self.free:
            weights = self.rng.uniform(size=len(self.experts))
        else:
            weights = self.rng.dirichlet(np.ones(len(self.experts)))
        return self._recipe(
            operator=operator,
            weights=weights,
            scale=1.0 if self.free else self.rng.uniform(low, high),
            density=self.rng.uniform(self.settings.density_min, self.settings.density_max),
        )

    def vary(self, parent: MergeRecipe, step: float = 0.25) -> MergeRecipe:
        """A neighbour: weights by log-normal factors, scale and density by Gaussian steps.

        Free weights take Gaussian steps, too.

        Args:
            parent: The recipe to vary.
            step: Standard deviation, relative to each range; of the log for weights.

        Returns:
            A recipe within the ranges; the operator changes once in ten times.
        """
        s = self.settings
        # An expert of weight zero gets a little back, or it could never return.
        given = dict(parent.weights)
        weights = np.array([given.get(name, 0.0) for name in self.experts])
        if self.free:
            weights = np.clip(weights + self.rng.normal(0.0, step, size=len(weights)), 0.0, 1.0)
        else:
            weights = weights + 0.01
            weights = weights * np.exp(self.rng.normal(0.0, 1.5 * step, size=len(weights)))
            weights = weights / weights.sum()
        operator = parent.operator
        if self.rng.random() < 0.1:
            operator = str(self.rng.choice(s.operators))
        density = parent.density if traits_of(parent.operator).density else s.density_max
        return self._recipe(
            operator=operator,
            weights=weights,
            scale=(
                1.0
                if self.free
                else parent.scale + self.rng.normal(0.0, step * (s.scale_max - s.scale_min) / 2)
            ),
            density=density + self.rng.normal(0.0, step * (s.density_max - s.density_min) / 2),
        )

    def _recipe(
        self, operator: str, weights: np.ndarray, scale: float, density: float
    ) -> MergeRecipe:
        s = self.settings
        if not self.free:
            scale = float(np.clip(scale, s.scale_min, s.scale_max))
        # Rounded, so that a recipe written down in YAML is the recipe that was scored.
        return MergeRecipe(
            operator=operator,
            weights=tuple(
                (name, round(float(w), DECIMALS))
                for name, w in zip(self.experts, weights, strict=True)
            ),
            scale=round(scale, DECIMALS),
            # Weights that are free say how much of each task vector there is; nothing divides them.
            normalise=False if self.free else None,
            density=round(float(np.clip(density, s.density_min, s.density_max)), DECIMALS),
        )


def search_recipes(
    problem: MergeProblem,
    budget: int,
    settings: ParameterSettings,
    rng: np.random.Generator,
    phase: str,
    vary: bool = True,
    planned: int = 0,
    scored_batch: Callable[[Sequence[MergeRecipe]], None] | None = None,
) -> list[MergeRecipe]:
    """Spend a budget on merged models of the sources' depth.

    Args:
        problem: Prepared problem.
        budget: Evaluations to charge.
        settings: What is searched.
        rng: Source of randomness.
        phase: Name under which the evaluations are logged.
        vary: Whether elites are varied after the warm-up; without it all draws are random.
        planned: Budget the warm-up's share refers to; 0: `budget`.
        scored_batch: Hears of each batch that was scored, while its models are in memory still.

    Returns:
        The recipes that got a score, in the order charged; fewer than `budget` only if there are no
        more different ones.
    """
    sampler = RecipeSampler(problem.pool.expert_names, settings, rng)
    scored: list[MergeRecipe] = []
    vectors: list[np.ndarray] = []
    known: set[str] = set()
    warm_up = round((planned or budget) * settings.warm_up) if vary else budget
    spent = 0
    while spent < budget:
        batch: list[MergeRecipe] = []
        for _ in range(ATTEMPTS):
            if len(batch) == min(BATCH, budget - spent):
                break
            if spent + len(batch) < warm_up or not vectors:
                recipe = sampler.draw()
            else:
                preference = sample_dirichlet(1, len(problem.objectives), rng)[0]
                best = int(np.argmax(tchebycheff(np.array(vectors), preference)))
                recipe = sampler.vary(scored[best])
            candidate = Candidate.whole(recipe, problem.pool.num_layers)
            if recipe.key not in known and not problem.seen(candidate):
                known.add(recipe.key)
                batch.append(recipe)
        if not batch:
            break
        candidates = [Candidate.whole(recipe, problem.pool.num_layers) for recipe in batch]
        before = len(scored)
        for recipe, evaluation in zip(batch, problem.evaluate(candidates, phase), strict=True):
            if evaluation.status == "ok":
                scored.append(recipe)
                vectors.append(problem.normalise(evaluation.vector))
        if scored_batch is not None:
            scored_batch(scored[before:])
        spent += len(batch)
    return scored


def select_members(
    problem: MergeProblem, recipes: Sequence[MergeRecipe], count: int
) -> list[MergeRecipe]:
    """Choose the merged models that become members of the pool.

    Greedily by what each adds to the hypervolume of those chosen so far, the sources included at
    half their scores: at full score an expert would hide the merges nearest to it, which are the
    layers that paths around that expert need. Ties go to the higher mean score.

    Args:
        problem: The problem whose archive holds the recipes' scores.
        recipes: Recipes that were scored.
        count: How many to choose at most.

    Returns:
        The chosen recipes, best first.
    """
    depth = problem.pool.num_layers
    points = {
        recipe: problem.normalise(
            problem.archive.vector(problem.key(Candidate.whole(recipe, depth)))
        )
        for recipe in recipes
    }
    sources = [
        problem.normalise(problem.archive.vector(problem.key(Candidate.whole(name, depth)))) / 2
        for name in problem.pool.expert_names
    ]
    chosen: list[MergeRecipe] = []
    taken = list(sources)
    while points and len(chosen) < count:
        gains = {
            recipe: (hypervolume(np.array([*taken, point])), float(point.mean()))
            for recipe, point in points.items()
        }
        best = max(gains, key=lambda recipe: gains[recipe])
        taken.append(points.pop(best))
        chosen.append(best)
    return chosen

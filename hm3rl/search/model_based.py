"""The parameter level by Gaussian processes: `search.parameter.sampler=gp`.

Scores are smooth in the few numbers of a recipe (MAP, arXiv 2406.07529, fits quadratic forms of the
coefficients), so a model of them finds the front with a fraction of the evaluations that
variation needs. The model is the one that judges paths (`surrogate.gp`), its batches are chosen as
theirs are (`surrogate.acquisition`), and the extra `baselines` is not needed.

Measured on the tiny zoo, free coefficients of task arithmetic, seeds 10 and 11 (in no table),
hypervolume on the search split: 0.705 and 0.696 after 40 evaluations (`elites` 0.654 and 0.661),
0.745 and 0.746 after 120 (`elites`, seed 0: 0.712).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import qmc

from hm3rl.config.searchers import ParameterSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.indicators import non_dominated
from hm3rl.search.encoding import RecipeEncoding
from hm3rl.search.ledger import Ledger
from hm3rl.search.parameter_level import BATCH
from hm3rl.surrogate.acquisition import choose_by_hypervolume
from hm3rl.surrogate.features import PathFeatures
from hm3rl.surrogate.gp import PathGP

FIRST = 4
"""Evaluations for each number of a recipe, and one more, before a model is asked."""

CANDIDATES = 300
"""Recipes at random, and as many near the front, of which a batch is chosen."""

NEAREST, FARTHEST = 0.05, 0.2
"""Standard deviations of the steps away from the front, of a range of 1."""

SAMPLES = 48
"""Joint posterior samples on which improvement is measured."""

STEPS = 60
"""Gradient steps on the hyper-parameters before each batch."""

JITTER = 1e-8


def search_by_model(
    problem: MergeProblem,
    budget: int,
    settings: ParameterSettings,
    rng: np.random.Generator,
    phase: str,
    planned: int = 0,
    scored_batch: Callable[[Sequence[MergeRecipe]], None] | None = None,
) -> list[MergeRecipe]:
    """Spend a budget on merged models, in batches of the largest expected improvement.

    Args:
        problem: Prepared problem.
        budget: Evaluations to charge.
        settings: Operators and ranges; `warm_up` bounds the share drawn before the first model,
            which is `FIRST` for each number of a recipe where the budget allows.
        rng: Source of randomness.
        phase: Name under which the evaluations are logged.
        planned: Budget the warm-up's share refers to; 0: `budget`.
        scored_batch: Hears of each batch that was scored, while its models are in memory still.

    Returns:
        The recipes that got a score, in the order charged; fewer than `budget` only if there are no
        more different ones, or some failed.
    """
    ledger = Ledger(problem, budget, phase)
    encoding = RecipeEncoding(problem.pool.expert_names, settings, problem.pool.num_layers)
    size = len(encoding.lower)
    most = round((planned or budget) * settings.warm_up)
    asked = qmc.LatinHypercube(size, rng=rng).random(max(2, min(FIRST * (size + 1), most)))
    width = encoding.features(asked).shape[1]
    model = PathGP(len(problem.objectives), np.arange(width))
    recipes: list[MergeRecipe] = []
    vectors: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    while len(asked):
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            before = len(recipes)
            candidates = [encoding.decode(vector) for vector in part]
            # The Gaussian processes never hear of candidates that failed.
            for vector, row in zip(part, ledger.score(candidates).each(), strict=False):
                if row is not None:
                    recipes.append(encoding.recipe(vector))
                    vectors.append(vector)
                    scores.append(row)
            if scored_batch is not None:
                scored_batch(recipes[before:])
        if not ledger.left:
            break
        begun = time.perf_counter()
        asked = _next(ledger, encoding, model, vectors, scores, rng)
        problem.deciding += time.perf_counter() - begun
    return recipes


def _next(
    ledger: Ledger,
    encoding: RecipeEncoding,
    model: PathGP,
    vectors: list[np.ndarray],
    scores: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """The next vectors, of new candidates, shape (n, D); none if the space is exhausted."""
    if len(vectors) < 2:  # all but one have failed: nothing to learn from yet
        return ledger.fresh(encoding, BATCH, rng)
    known, outcomes = np.array(vectors), np.array(scores)
    model.fit(_blocks(encoding, known), outcomes, STEPS)
    best = non_dominated(outcomes)
    pool = _promising(ledger, encoding, known[best], rng)
    if not len(pool):
        return ledger.fresh(encoding, BATCH, rng)
    means, covariances = model.posterior(_blocks(encoding, pool))
    roots = np.linalg.cholesky(covariances + JITTER * np.eye(len(pool)))
    noise = rng.normal(size=(*covariances.shape[:2], SAMPLES))
    samples = (means.T[:, :, None] + roots @ noise).transpose(2, 1, 0)
    return pool[choose_by_hypervolume(samples, outcomes[best], min(BATCH, ledger.left))]


def _promising(
    ledger: Ledger, encoding: RecipeEncoding, front: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Vectors at random and near the front, each of another new candidate, shape (n, D)."""
    parents = front[rng.integers(len(front), size=CANDIDATES)]
    spread = rng.uniform(NEAREST, FARTHEST, size=(CANDIDATES, 1))
    near = np.clip(parents + spread * rng.normal(size=parents.shape), 0.0, 1.0)
    found: dict[str, np.ndarray] = {}
    for vector in np.concatenate([encoding.sample(CANDIDATES, rng), near]):
        candidate = encoding.decode(vector)
        if ledger.is_new(candidate):
            found.setdefault(ledger.problem.key(candidate), vector)
    return np.array(list(found.values())).reshape(len(found), front.shape[1])


def _blocks(encoding: RecipeEncoding, vectors: np.ndarray) -> PathFeatures:
    """Recipes as the model takes paths: each number is a depth of its own, no transitions."""
    return PathFeatures(encoding.features(vectors), np.zeros((len(vectors), 1)))

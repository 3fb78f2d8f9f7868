"""Competitor `mm_mo`: multi-objective Bayesian optimisation of one merge (MM-MO).

Li et al., "It's Morphing Time" (arXiv 2407.00487): DARE-TIES with a density and a weight for every
expert, x in [0, 1]^(2K); maximise the task scores and the sparsity -||theta - theta_base||_1.

1. `initial` merges at random (Latin hypercube).
2. Gaussian processes; the acquisition function proposes q vectors.
3. Weak to strong: each proposal p is crossed with each of the five best e evaluated so far, by
   differential evolution: v = p + F (e - p) + F (a - b) with a, b two others of the five, then
   binomial crossover of p and v (F = CR = 0.5).
4. Screening: of all those, evaluate the q with the least Fisher information sum_k 1 / sigma_k^2(x),
   that is where the model knows least. Back to 2.

What deviates, and why:

- The acquisition function is log noisy expected hypervolume improvement on one scale, f / z* with
  reference 0 (the sparsity: what was seen, less a tenth of its range). The released code mixes a
  raw reference point with standardised outcomes, which flattens its qEHVI.
- "The five best" are those that make up the largest hypervolume of task scores.
- Weights are not divided by those that agree in sign (`normalise=False`), so that the size of the
  merged task vector is searched as well: with the division no merge here can leave the base
  farther behind than an expert does.
- Sparsity is measured in mean distances of the experts from the base, so that it is of order 1.
- Without the screening (`fisher=false`) one vector of each proposal's family is drawn; the paper
  does not say what its ablation does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import qmc

from hm3rl.config.searchers import MmMoSettings, MmMoSizes
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.merge import distance_from_base
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.indicators import hypervolume
from hm3rl.search.base import Searcher
from hm3rl.search.bayesian import Surrogate
from hm3rl.search.encoding import LayerGroupEncoding
from hm3rl.search.ledger import Ledger

F, CR = 0.5, 0.5
ELITES = 5


class MmMo(Searcher[MmMoSettings]):
    """Bayesian optimisation of DARE-TIES merges."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        problem.logger.phase(self.name, budget)
        rng = np.random.default_rng(self.seed)
        search_merges(problem, budget, self.options, rng, self.name)
        return problem.archive


def search_merges(
    problem: MergeProblem,
    budget: int,
    settings: MmMoSizes,
    rng: np.random.Generator,
    phase: str,
    scored_batch: Callable[[Sequence[MergeRecipe]], None] | None = None,
) -> list[MergeRecipe]:
    """Spend a budget on merged models of the sources' depth, as MM-MO does.

    Args:
        problem: Prepared problem.
        budget: Evaluations to charge.
        settings: Sizes and switches.
        rng: Source of randomness.
        phase: Name under which the evaluations are logged.
        scored_batch: Hears of each batch that was scored, while its models are in memory still.

    Returns:
        The recipes that got a score, in the order charged; fewer than `budget` only if there are no
        more different ones, or some failed.
    """
    ledger = Ledger(problem, budget, phase)
    encoding = LayerGroupEncoding(problem.pool.expert_names, problem.pool.num_layers, groups=1)
    sparsity = Sparsity(problem) if settings.sparsity else None
    recipes: list[MergeRecipe] = []
    vectors: list[np.ndarray] = []
    outcomes: list[np.ndarray] = []
    asked = qmc.LatinHypercube(len(encoding.lower), rng=rng).random(settings.initial)
    while len(asked):
        before = len(recipes)
        candidates = [encoding.decode(vector) for vector in asked]
        # The Gaussian processes never hear of candidates that failed.
        for vector, row in zip(asked, ledger.score(candidates).each(), strict=False):
            if row is not None:
                recipe = encoding.recipe(vector)
                recipes.append(recipe)
                vectors.append(vector)
                outcomes.append(row if sparsity is None else np.append(row, sparsity(recipe)))
        if scored_batch is not None:
            scored_batch(recipes[before:])
        if not ledger.left:
            break
        asked = _next(ledger, encoding, np.array(vectors), np.array(outcomes), settings, rng)
    return recipes


class Sparsity:
    """-||theta - theta_base||_1, in mean distances of the experts from the base.

    Args:
        problem: Has the sources.
    """

    def __init__(self, problem: MergeProblem) -> None:
        self.task_vectors = problem.members.task_vectors
        experts = [
            MergeRecipe.of("task_arithmetic", {name: 1.0}) for name in problem.pool.expert_names
        ]
        self.unit = float(np.mean([distance_from_base(self.task_vectors, one) for one in experts]))

    def __call__(self, recipe: MergeRecipe) -> float:
        """The sparsity of a merge, at most 0."""
        return -distance_from_base(self.task_vectors, recipe) / self.unit


def _next(
    ledger: Ledger,
    encoding: LayerGroupEncoding,
    vectors: np.ndarray,
    outcomes: np.ndarray,
    settings: MmMoSizes,
    rng: np.random.Generator,
) -> np.ndarray:
    """The next q vectors, of new candidates, shape (q, 2K); none if the space is exhausted."""
    problem, count = ledger.problem, settings.batch
    if len(vectors) < 2:  # all but one have failed: nothing to learn from yet
        return ledger.fresh(encoding, count, rng)
    tasks = len(problem.objectives)
    low, high = outcomes.min(axis=0), outcomes.max(axis=0)
    reference = low - 0.1 * (high - low)
    reference[:tasks] = 0.0
    surrogate = Surrogate(vectors, outcomes, reference, settings, int(rng.integers(2**31)))
    if not surrogate.fitted:
        problem.logger.metrics(problem.used, {"mm_mo/unfitted": 1.0})
    elites = vectors[strongest(outcomes[:, :tasks], ELITES)]
    families = [
        np.array([proposal, *(crossings(proposal, elites, rng) if settings.weak_to_strong else ())])
        for proposal in surrogate.propose(count)
    ]
    if settings.fisher:
        pool = np.concatenate(families)
        information = (1.0 / surrogate.variance(pool)).sum(axis=1)
        pool = pool[np.argsort(information, kind="stable")]
    else:
        shuffled = [rng.permutation(family) for family in families]
        pool = np.stack(shuffled, axis=1).reshape(-1, vectors.shape[1])
    chosen: dict[str, np.ndarray] = {}
    for vector in pool:
        candidate = encoding.decode(vector)
        if len(chosen) < count and ledger.is_new(candidate):
            chosen.setdefault(problem.key(candidate), vector)
    return np.array(list(chosen.values())) if chosen else ledger.fresh(encoding, count, rng)


def strongest(scores: np.ndarray, count: int) -> list[int]:
    """Rows that make up the largest hypervolume together, chosen one after the other.

    Args:
        scores: f / z*, shape (N, K).
        count: How many at most.

    Returns:
        Their indexes; ties go to the higher mean.
    """
    chosen: list[int] = []
    for _ in range(min(count, len(scores))):
        left = [i for i in range(len(scores)) if i not in chosen]
        chosen.append(
            max(left, key=lambda i: (hypervolume(scores[[*chosen, i]]), scores[i].mean()))
        )
    return chosen


def crossings(proposal: np.ndarray, elites: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cross a proposal with every elite by differential evolution.

    Args:
        proposal: Shape (D,), in [0, 1].
        elites: Shape (E, D).
        rng: Source of randomness.

    Returns:
        Shape (E, D), in [0, 1]; of fewer than three elites there is no difference a - b.
    """
    trials = []
    for index, elite in enumerate(elites):
        mutant = proposal + F * (elite - proposal)
        others = np.delete(elites, index, axis=0)
        if len(others) >= 2:
            a, b = others[rng.choice(len(others), size=2, replace=False)]
            mutant = mutant + F * (a - b)
        taken = rng.random(len(proposal)) < CR
        taken[rng.integers(len(proposal))] = True
        trials.append(np.where(taken, np.clip(mutant, 0.0, 1.0), proposal))
    return np.array(trials)

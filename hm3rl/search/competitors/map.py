"""Competitor `map`: quadratic surrogates of every score, and NSGA-III on them.

MAP (Li et al., "MAP: Low-compute model merging with amortized Pareto fronts via quadratic
approximation", arXiv 2406.07529, ICLR 2025): theta(c) = theta_base + sum_n c_n delta_n with scaling
coefficients c in [0, c_max]^N. Near the base each metric is about quadratic in c,
M_k(c) ~ sigmoid(c^T A_k c / 2 + b_k^T c + e_k) for a metric in (0, 1), so a few random c determine
(N + 1)(N + 2) / 2 numbers for each task, and NSGA-III on these formulas costs nothing.

What deviates: the fit is least squares of the scores themselves, started from least squares of
their logits, where the paper descends gradients; the surrogate's front is evaluated in batches, and
the surrogates are fitted again after each (`search.batch`; 0 evaluates it at once, as the paper
does, and repeats that while the budget lasts): the paper's own Bayesian MAP samples again, too, but
by bins of c, not along the front. The sources, whose scores cost nothing, are fitted to as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.problem import Problem
from pymoo.optimize import minimize
from scipy.optimize import least_squares
from scipy.special import expit, logit

from hm3rl.config.searchers import MapSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.paths.candidate import Candidate
from hm3rl.search.base import Searcher
from hm3rl.search.evolution import directions
from hm3rl.search.ledger import KnownPoints, Ledger
from hm3rl.search.parameter_level import DECIMALS

POPULATION, GENERATIONS = 60, 80
EDGE = 0.01
"""Scores are kept this far from 0 and 1 where their logits are taken."""


class CoefficientEncoding:
    """Task arithmetic with one scaling coefficient for each expert.

    Args:
        experts: Names of the N experts.
        depth: Layers of the merged model.
        largest: c_max.
    """

    def __init__(self, experts: Sequence[str], depth: int, largest: float) -> None:
        self.experts = tuple(experts)
        self.depth = depth
        self.lower = np.zeros(len(self.experts))
        self.upper = np.full(len(self.experts), largest)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw n vectors uniformly, shape (n, N)."""
        return rng.uniform(self.lower, self.upper, size=(n, len(self.experts)))

    def decode(self, vector: np.ndarray) -> Candidate:
        """The merge with these coefficients, shape (N,); all zero is the base's weights."""
        weights = {
            name: round(float(c), DECIMALS) for name, c in zip(self.experts, vector, strict=True)
        }
        return Candidate.whole(MergeRecipe.of("task_arithmetic", weights), self.depth)

    def source(self, expert: str | None) -> np.ndarray | None:
        """See `MergeEncoding`: coefficient 1 for the expert alone, none for the base."""
        vector = np.array([float(name == expert) for name in self.experts])
        return None if (vector > self.upper).any() else vector


class QuadraticSurrogate:
    """sigmoid(quadratic) of the coefficients, one for each task.

    Args:
        vectors: Coefficients, shape (n, N).
        scores: Raw scores there, shape (n, K), in [0, 1].
    """

    def __init__(self, vectors: np.ndarray, scores: np.ndarray) -> None:
        features = quadratic_features(vectors)
        logits = logit(np.clip(scores, EDGE, 1 - EDGE))
        start = np.linalg.lstsq(features, logits, rcond=None)[0]
        self.coefficients = np.stack(
            [
                least_squares(lambda b, y=y: expit(features @ b) - y, b0).x
                if len(vectors) >= features.shape[1]
                else b0
                for b0, y in zip(start.T, scores.T, strict=True)
            ],
            axis=1,
        )

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Predicted scores, shape (n, K)."""
        return np.asarray(expit(quadratic_features(vectors) @ self.coefficients))

    def front(self, encoding: CoefficientEncoding, seed: int) -> np.ndarray:
        """Coefficients on the surrogate's front by NSGA-III, shape (n, N), in no special order."""
        tasks = self.coefficients.shape[1]
        surrogate = self

        class Predicted(Problem):
            def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray]) -> None:
                out["F"] = -surrogate(x)

        problem = Predicted(
            n_var=len(encoding.lower), n_obj=tasks, xl=encoding.lower, xu=encoding.upper
        )
        algorithm = NSGA3(directions(tasks, POPULATION), pop_size=POPULATION)
        result = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed)
        return np.atleast_2d(result.opt.get("X"))


def quadratic_features(vectors: np.ndarray) -> np.ndarray:
    """1, c_i and c_i c_j for i <= j, shape (n, (N + 1)(N + 2) / 2)."""
    extended = np.concatenate([np.ones((len(vectors), 1)), vectors], axis=1)
    rows, columns = np.triu_indices(extended.shape[1])
    return np.asarray(extended[:, rows] * extended[:, columns])


class Map(Searcher[MapSettings]):
    """Quadratic surrogates and their front."""

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        problem.logger.phase(self.name, budget)
        ledger = Ledger(problem, budget, self.name)
        experts = problem.pool.expert_names
        encoding = CoefficientEncoding(experts, problem.pool.num_layers, self.options.largest)
        needed = len(quadratic_features(np.zeros((1, len(experts))))[0])
        first = max(needed, round((self.planned or budget) * self.options.sample))
        asked = encoding.sample(first, rng)
        known = KnownPoints.sources(problem, encoding)
        vectors = list(known.vectors)
        scores = list(known.scores * problem.z_star)
        while len(asked):
            candidates = [encoding.decode(vector) for vector in asked]
            evaluations = problem.known(candidates[: len(ledger.score(candidates).ok)])
            # The quadratic forms are fitted to what got scores.
            for vector, evaluation in zip(asked, evaluations, strict=False):
                if evaluation.ok:
                    vectors.append(vector)
                    scores.append(np.asarray(evaluation.vector))
            if not ledger.left:
                break
            asked = self._next(ledger, encoding, np.array(vectors), np.array(scores), rng)
        return problem.archive

    def _next(
        self,
        ledger: Ledger,
        encoding: CoefficientEncoding,
        vectors: np.ndarray,
        scores: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The next vectors of new candidates; where the front has none, random ones."""
        most = self.options.batch or ledger.left
        if not len(vectors):
            return ledger.fresh(encoding, most, rng)
        front = QuadraticSurrogate(vectors, scores).front(encoding, int(rng.integers(2**31)))
        chosen: dict[str, np.ndarray] = {}
        for vector in rng.permutation(front):
            candidate = encoding.decode(vector)
            if len(chosen) < most and ledger.is_new(candidate):
                chosen.setdefault(ledger.problem.key(candidate), vector)
        return np.array(list(chosen.values())) if chosen else ledger.fresh(encoding, most, rng)

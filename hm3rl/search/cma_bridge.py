"""The bridge to CMA-ES (Hansen's `cma`), over any encoding, for several objectives.

CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001) minimises one number. Here preferences
take turns: under each a strategy runs for some generations on the Tchebycheff utility, starting
from the vector that is best under it so far, and then the next preference has its turn. What
`Ledger` and `Encoding` do is said in `hm3rl.search.evolution`.

A candidate that failed is ranked behind all that got scores, which is all that CMA-ES knows of it,
and no strategy starts from it. A generation in which fewer got scores than the strategy has parents
tells it nothing: it draws another one.
"""

from __future__ import annotations

import cma
import numpy as np

from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.search.encoding import Encoding
from hm3rl.search.ledger import Ledger, Scores

STEP = 1 / 6
"""First standard deviation in units of each entry's range (Akiba et al., section 4.1)."""


def evolve_cma(
    ledger: Ledger,
    encoding: Encoding,
    generations: int,
    rng: np.random.Generator,
    starts: np.ndarray | None = None,
) -> None:
    """Run CMA-ES under preferences in turn until the ledger is spent or the space exhausted.

    Args:
        ledger: Scores candidates and holds the budget.
        encoding: Decodes vectors.
        generations: Generations under one preference, at least 1.
        rng: Source of randomness.
        starts: Vectors which strategies may start from like those they find, shape (S, D); they
            are charged if this run has not scored them. None: the first strategy starts in the
            middle of the box, as it does while nothing has got scores.
    """
    span = encoding.upper - encoding.lower
    vectors: list[np.ndarray] = []
    scores = np.empty((0, len(ledger.problem.objectives)))

    def score(asked: list[np.ndarray]) -> Scores:
        """Score vectors and remember those that a strategy may start from."""
        nonlocal scores
        found = ledger.score([encoding.decode(vector) for vector in asked])
        vectors.extend(v for v, ok in zip(asked, found.ok, strict=False) if ok)
        scores = np.concatenate([scores, found.vectors])
        return found

    if starts is not None:
        score(list(starts))
    while ledger.left:
        preference = sample_dirichlet(1, scores.shape[1], rng)[0]
        mean = (encoding.lower + encoding.upper) / 2
        if vectors:
            mean = vectors[int(np.argmax(tchebycheff(scores, preference)))]
        strategy = _strategy((mean - encoding.lower) / span, rng)
        before = ledger.left
        for _ in range(generations):
            units = strategy.ask()
            asked = [encoding.lower + span * np.asarray(unit) for unit in units]
            found = score(asked)
            if len(found.ok) < len(asked):
                return
            if len(found.vectors) < strategy.sp.weights.mu:
                continue
            strategy.tell(units, ranked(-tchebycheff(found.vectors, preference), found.ok))
            if strategy.stop():
                break
        if ledger.left == before:
            fresh = ledger.fresh(encoding, len(units), rng)
            if not len(fresh):
                return
            score(list(fresh))


def ranked(costs: np.ndarray, ok: np.ndarray) -> list[float]:
    """Costs as CMA-ES takes them, by their order alone: those that failed come last.

    Args:
        costs: Of those that got scores, lower is better, at least one.
        ok: Which of all these are, boolean of shape (n,).

    Returns:
        n costs; of a failure the next number above the worst, so that the range stays.
    """
    behind = np.full(len(ok), np.nextafter(costs.max(), np.inf))
    behind[ok] = costs
    return [float(cost) for cost in behind]


def _strategy(mean: np.ndarray, rng: np.random.Generator) -> cma.CMAEvolutionStrategy:
    """A strategy in the unit box that draws from `rng` alone, not from numpy's global state."""
    options = {
        "bounds": [0, 1],
        "seed": np.nan,
        "randn": lambda *shape: rng.standard_normal(shape),
        "verbose": -9,
    }
    return cma.CMAEvolutionStrategy(np.clip(mean, 0, 1), STEP, options)

"""The bridge to CMA-ES (Hansen's `cma`), over any encoding, for several objectives.

CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001) minimises one number. Here preferences
take turns: under each a strategy runs for some generations on the Tchebycheff utility, starting
from the vector that is best under it so far, and then the next preference has its turn. What
`Ledger` and `Encoding` do is said in `hm3rl.search.evolution`.
"""

from __future__ import annotations

import cma
import numpy as np

from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.search.encoding import Encoding
from hm3rl.search.ledger import Ledger

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
            middle of the box.
    """
    span = encoding.upper - encoding.lower
    if starts is None:
        vectors = [(encoding.lower + encoding.upper) / 2]
        scores = np.zeros((1, len(ledger.problem.objectives)))
    else:
        vectors = list(starts)
        scores = ledger.score([encoding.decode(vector) for vector in vectors])
    while ledger.left:
        preference = sample_dirichlet(1, scores.shape[1], rng)[0]
        mean = vectors[int(np.argmax(tchebycheff(scores, preference)))]
        strategy = _strategy((mean - encoding.lower) / span, rng)
        before = ledger.left
        for _ in range(generations):
            units = strategy.ask()
            asked = [encoding.lower + span * np.asarray(unit) for unit in units]
            found = ledger.score([encoding.decode(vector) for vector in asked])
            if len(found) < len(asked):
                return
            strategy.tell(units, list(-tchebycheff(found, preference)))
            vectors += asked
            scores = np.concatenate([scores, found])
            if strategy.stop():
                break
        if ledger.left == before:
            fresh = ledger.fresh(encoding, len(units), rng)
            if not len(fresh):
                return
            found = ledger.score([encoding.decode(vector) for vector in fresh])
            vectors += list(fresh[: len(found)])
            scores = np.concatenate([scores, found])


def _strategy(mean: np.ndarray, rng: np.random.Generator) -> cma.CMAEvolutionStrategy:
    """A strategy in the unit box that draws from `rng` alone, not from numpy's global state."""
    options = {
        "bounds": [0, 1],
        "seed": np.nan,
        "randn": lambda *shape: rng.standard_normal(shape),
        "verbose": -9,
    }
    return cma.CMAEvolutionStrategy(np.clip(mean, 0, 1), STEP, options)

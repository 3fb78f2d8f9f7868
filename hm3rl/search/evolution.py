"""The bridge to pymoo: any of its algorithms, over any encoding, by ask and tell.

pymoo (Blank and Deb, IEEE Access 2020) does selection, variation and survival. Ours are what a
vector means (`Encoding`) and what it may cost (`Ledger`):

- A vector that decodes to a known candidate costs nothing, and genetic algorithms built by `nsga`
  do not propose it: known candidates count as duplicates, not only those alive.
- What is known before anything was spent (`KnownPoints`) is part of the first population.
- A generation without anything new is replaced by random vectors; when they bring nothing new
  either, the space is exhausted and the search ends.
- Nothing depends on time: pymoo's own termination is switched off, the budget ends the search.
- A candidate that failed has no objectives: pymoo is told that it is infeasible. So whatever got
  scores wins against it, and no fitness is made up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.algorithm import Algorithm
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination

from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.search.encoding import Encoding
from hm3rl.search.ledger import KnownPoints, Ledger

Fitness = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Scores f / z* of shape (n, K), and for each the place in the population that it holds or contests
(where the algorithm knows places), shape (n,), to what pymoo minimises, shape (n, M)."""

PLACE = "index"
"""Name under which offspring that challenge one parent carry its place (pymoo's own)."""


def pareto(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The fitness of multi-objective algorithms: every objective on its own, negated."""
    return -scores


def evolve(
    ledger: Ledger,
    encoding: Encoding,
    algorithm: Algorithm,
    rng: np.random.Generator,
    fitness: Fitness = pareto,
    known: KnownPoints | None = None,
) -> None:
    """Run an algorithm until the ledger is spent or the space exhausted.

    Args:
        ledger: Scores candidates and holds the budget.
        encoding: Decodes vectors.
        algorithm: A fresh algorithm of pymoo; see `nsga`.
        rng: Source of randomness; the algorithm's own seed is drawn from it.
        fitness: What the algorithm minimises.
        known: Joins the first population, ahead of what the algorithm draws.
    """
    width = fitness(np.zeros((1, len(ledger.problem.objectives))), np.zeros(1, int)).shape[1]
    algorithm.setup(
        Problem(
            n_var=len(encoding.lower),
            n_obj=width,
            n_ieq_constr=1,  # met by what got scores
            xl=encoding.lower,
            xu=encoding.upper,
        ),
        termination=NoTermination(),
        seed=int(rng.integers(2**31)),
    )
    parents = 0 if known is None else len(known.vectors)
    while ledger.left:
        asked = algorithm.ask()
        candidates = [] if asked is None else [encoding.decode(one.X) for one in asked]
        if not any(map(ledger.is_new, candidates)):
            vectors = ledger.fresh(encoding, algorithm.pop_size, rng)
            if not len(vectors):
                return
            asked = Population.new(X=vectors)
            asked.set(PLACE, rng.permutation(algorithm.pop_size)[: len(asked)])
            candidates = [encoding.decode(vector) for vector in vectors]
        scores = ledger.score(candidates)
        if len(scores.ok) < len(candidates):
            return
        ok, vectors = scores
        if known is not None and parents:
            asked = Population.merge(Population.new(X=known.vectors), asked)
            ok = np.concatenate([np.ones(parents, dtype=bool), ok])
            vectors, parents = np.concatenate([known.scores, vectors]), 0
        places = asked.get(PLACE)
        if any(place is None for place in places):
            places = np.arange(len(asked))
        objectives = np.full((len(asked), width), np.nan)
        if ok.any():
            objectives[ok] = fitness(vectors, places[ok].astype(int))
        asked.set("F", objectives)
        asked.set("G", np.where(ok, 0.0, 1.0)[:, None])
        algorithm.tell(infills=asked)


def nsga(
    name: str,
    ledger: Ledger,
    encoding: Encoding,
    size: int,
    rng: np.random.Generator,
    known: KnownPoints | None = None,
    **parts: Any,
) -> Algorithm:
    """NSGA-II (Deb et al., 2002) or NSGA-III (Deb and Jain, 2014).

    Args:
        name: `nsga2` or `nsga3`.
        ledger: Knows which candidates have been scored.
        encoding: Gives the first population and decodes.
        size: Size of the population and of each generation of offspring.
        rng: Draws the first population.
        known: Members of the first population that `evolve` adds; so many fewer are drawn.
        **parts: Operators in place of pymoo's for real numbers (simulated binary crossover,
            polynomial mutation): `crossover`, `mutation`, `repair`, `selection`.

    Returns:
        The algorithm, for `evolve`.
    """
    drawn = size if known is None else max(size - len(known.vectors), 1)
    shared: dict[str, Any] = {
        "pop_size": size,
        "sampling": encoding.sample(drawn, rng),
        "eliminate_duplicates": KnownCandidates(ledger, encoding),
        **parts,
    }
    if name == "nsga2":
        return NSGA2(**shared)
    return NSGA3(ref_dirs=directions(len(ledger.problem.objectives), size), **shared)


def directions(k: int, most: int) -> np.ndarray:
    """Das and Dennis' reference directions for NSGA-III: the finest lattice that fits.

    Args:
        k: Number of objectives.
        most: Most directions; one for each objective there are in any case.

    Returns:
        Shape (N, k), rows on the simplex.
    """
    divisions = 1
    while k > 1 and comb(divisions + k, k - 1) <= most:
        divisions += 1
    return simplex_lattice(k, divisions)


class KnownCandidates(DuplicateElimination):
    """Lets a vector pass only if it decodes to a candidate that is new to the run and the batch."""

    def __init__(self, ledger: Ledger, encoding: Encoding) -> None:
        super().__init__()
        self.ledger = ledger
        self.encoding = encoding

    def _do(
        self, pop: Population, other: Population | None, is_duplicate: np.ndarray
    ) -> np.ndarray:
        """Mark duplicates; pymoo calls it with `other` None, then with parents, then offspring."""
        key = self.ledger.problem.key
        taken = {key(self.encoding.decode(one.X)) for one in other} if other is not None else set()
        for index, one in enumerate(pop):
            candidate = self.encoding.decode(one.X)
            known = not self.ledger.is_new(candidate) or key(candidate) in taken
            is_duplicate[index] = known
            if other is None:
                taken.add(key(candidate))
        return is_duplicate

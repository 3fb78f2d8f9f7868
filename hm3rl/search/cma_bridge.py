"""The bridge to CMA-ES (Hansen's `cma`), over any encoding, for several objectives.

CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001) minimises one number. Here preferences
take turns: under each a strategy runs for some generations on the Tchebycheff utility, starting
from the vector that is best under it so far, and then the next preference has its turn. What
`Ledger` and `Encoding` do is said in `hm3rl.search.evolution`.

A strategy adapts from generation to generation, so it gets at least `search.generations` of them,
unless it has converged before: size of the populations and number of preferences follow from the
budget (`plan`).

A candidate that failed is ranked behind all that got scores, which is all that CMA-ES knows of it,
and no strategy starts from it. A generation in which fewer got scores than the strategy has parents
tells it nothing: it draws another one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from typing import NamedTuple

import cma
import numpy as np

from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.search.encoding import Encoding
from hm3rl.search.ledger import KnownPoints, Ledger

STEP = 1 / 6
"""First standard deviation in units of each entry's range (Akiba et al., section 4.1)."""


SMALLEST = 4
"""Candidates of the smallest population: of two a strategy would have one parent."""


TURNS = 10
"""Preferences before whose turn nobody's population is larger than `SMALLEST`."""

ENDLESS = 10
"""So many times the planned generations end a preference's turn: what they propose is known."""


class Plan(NamedTuple):
    """How a budget is divided.

    Attributes:
        budget: Evaluations.
        population: Candidates in a generation.
        generations: Under each preference, at least.
        preferences: How many have their turn; the last one spends what is left.
    """

    budget: int
    population: int
    generations: int
    preferences: int


def plan(budget: int, generations: int, size: int) -> Plan:
    """Divide a budget among preferences.

    A front needs many preferences, and each of them `generations` generations. So the population
    is as large as `TURNS` of them allow, from `SMALLEST` to Hansen's 4 + 3 log(n), which the paper
    takes; with the smallest there may be fewer preferences, with the largest more. On the formula
    of the tests, 300 evaluations, hypervolumes are 0.648 with a population of 4, 0.618 with 6,
    0.615 with 9, each for ten generations, and 0.636 with 11 for two.

    Args:
        budget: Evaluations.
        generations: Under each preference, at least.
        size: n, entries of a vector.
    """
    most = 4 + int(3 * log(size))
    population = min(most, max(budget // (generations * TURNS), SMALLEST))
    preferences = max(budget // (population * generations), 1)
    return Plan(budget, population, budget // (population * preferences), preferences)


def evolve_cma(
    ledger: Ledger,
    encoding: Encoding,
    plan: Plan,
    rng: np.random.Generator,
    known: KnownPoints,
) -> None:
    """Run CMA-ES under preferences in turn until the ledger is spent or the space exhausted.

    Args:
        ledger: Scores candidates and holds the budget.
        encoding: Decodes vectors.
        plan: Generations under each preference, and their size.
        rng: Source of randomness.
        known: What strategies may start from, besides what they find; while there is nothing, they
            start in the middle of the box.
    """
    span = encoding.upper - encoding.lower
    whole, turn = ledger.left, 0
    while ledger.left:
        preference = sample_dirichlet(1, len(ledger.problem.objectives), rng)[0]
        mean = middle(encoding)
        if len(known.vectors):
            mean = known.vectors[int(np.argmax(tchebycheff(known.scores, preference)))]
        strategy = _strategy((mean - encoding.lower) / span, rng, plan.population)
        before, turn = ledger.left, turn + 1
        for generation in range(ENDLESS * plan.generations):
            rest = turn == plan.preferences and whole - ledger.left < plan.budget
            if generation >= plan.generations and not rest:
                break
            with _quiet():
                units = strategy.ask()
            asked = encoding.lower + span * np.array(units)
            found = ledger.score([encoding.decode(vector) for vector in asked])
            known = known.joined(asked[: len(found.ok)][found.ok], found.vectors)
            if len(found.ok) < len(asked):
                return
            if len(found.vectors) < strategy.sp.weights.mu:
                continue
            with _quiet():
                strategy.tell(units, ranked(-tchebycheff(found.vectors, preference), found.ok))
            if strategy.stop():
                break
        if ledger.left == before:
            fresh = ledger.fresh(encoding, plan.population, rng)
            if not len(fresh):
                return
            found = ledger.score([encoding.decode(vector) for vector in fresh])
            known = known.joined(fresh[found.ok], found.vectors)


def middle(encoding: Encoding) -> np.ndarray:
    """The middle of an encoding's box, shape (D,): where the paper's strategy starts."""
    return (encoding.lower + encoding.upper) / 2


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without cma's warning that a generation was asked for and never told: it failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cma.evolution_strategy.InjectionWarning)
        yield


def _strategy(
    mean: np.ndarray, rng: np.random.Generator, population: int
) -> cma.CMAEvolutionStrategy:
    """A strategy in the unit box that draws from `rng` alone, not from numpy's global state."""
    options = {
        "bounds": [0, 1],
        "seed": np.nan,
        "randn": lambda *shape: rng.standard_normal(shape),
        "verbose": -9,
        "popsize": population,
    }
    return cma.CMAEvolutionStrategy(np.clip(mean, 0, 1), STEP, options)

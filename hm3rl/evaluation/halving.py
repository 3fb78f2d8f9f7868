"""Successive halving: many candidates on few items, the better ones on more, the best on all.

Jamieson and Talwalkar (2016); Hyperband (Li et al., 2018) runs it with several numbers of starters.
With several objectives "better" needs a ranking of vectors. Two are here: by a set of preferences,
each of which wants its best candidate kept, and by what a candidate adds to the front's
hypervolume. All candidates of a rung were asked the same items, and what a candidate was asked on
one rung is not asked again on the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hm3rl.errors import InputError
from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.objectives.indicators import hypervolume
from hm3rl.objectives.scalarisation import Scalarisation, scalarise
from hm3rl.paths.candidate import Candidate


class Ranking(Protocol):
    """Orders the candidates of one rung."""

    def __call__(
        self, problem: MergeProblem, vectors: np.ndarray, fidelity: Fidelity
    ) -> Sequence[int]:
        """Order candidates.

        Args:
            problem: The problem.
            vectors: Their scores over z* at this fidelity, shape (n, K).
            fidelity: The rung's.

        Returns:
            All n indices, best first; of equals the first comes first.
        """
        ...


@dataclass(frozen=True)
class ByPreferences:
    """Rank candidates by the best place they take under any of some preferences.

    So the first P places hold the favourite of every preference before anybody's second choice.

    Attributes:
        preferences: Points of the simplex, shape (P, K).
        kind: Scalarisation.
    """

    preferences: np.ndarray
    kind: Scalarisation = "tchebycheff"

    def __call__(
        self, problem: MergeProblem, vectors: np.ndarray, fidelity: Fidelity
    ) -> Sequence[int]:
        """Order candidates; see `Ranking`."""
        weights = np.atleast_2d(self.preferences)
        utilities = scalarise(vectors[:, None, :], weights[None, :, :], self.kind)  # (n, P)
        order = np.argsort(-utilities, axis=0, kind="stable")
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(len(vectors))[:, None], axis=0)
        return [int(i) for i in np.argsort(places.min(axis=1), kind="stable")]


@dataclass(frozen=True)
class ByHypervolume:
    """Rank candidates greedily by what each adds to the front's hypervolume.

    The front is looked at on the rung's own items, all of which it was asked before, so the
    comparison is a paired one and costs nothing.
    """

    def __call__(
        self, problem: MergeProblem, vectors: np.ndarray, fidelity: Fidelity
    ) -> Sequence[int]:
        """Order candidates; see `Ranking`."""
        asked = problem.evaluator.items("search", fidelity)
        # Nobody asked for the front's proxies in a search that decides by full scores, so on such
        # a rung the candidates stand alone.
        alike = fidelity.measure == problem.fidelity.measure
        front = problem.archive.front_keys() if alike else ()
        points = []
        for key in front:
            scores = problem.evaluation(key).per_item
            means = [
                scores[name][list(asked[name])].mean() if name in asked else scores[name].mean()
                for name in problem.objectives
            ]
            points.append(problem.normalise(np.array(means)))
        left = list(range(len(vectors)))
        order: list[int] = []
        while left:
            volumes = [hypervolume(np.array([*points, vectors[i]])) for i in left]
            best = left.pop(int(np.argmax(volumes)))
            points.append(vectors[best])
            order.append(best)
        return order


@dataclass(frozen=True)
class Rung:
    """One rung of a halving.

    Attributes:
        fidelity: At which its candidates were evaluated.
        evaluations: Theirs, in the order of the candidates that entered.
        kept: Indices of those that went on, best first.
    """

    fidelity: Fidelity
    evaluations: tuple[Evaluation, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Halving:
    """What a halving came to.

    Attributes:
        winners: Candidates that the last rung kept, best first.
        evaluations: Their evaluations at the last rung's fidelity.
        rungs: What happened on the way.
    """

    winners: tuple[Candidate, ...]
    evaluations: tuple[Evaluation, ...]
    rungs: tuple[Rung, ...]


def successive_halving(
    problem: MergeProblem,
    candidates: Sequence[Candidate],
    rungs: Sequence[str | Fidelity],
    keep: Sequence[int],
    ranking: Ranking,
    phase: str = "halving",
) -> Halving:
    """Evaluate candidates at rising fidelity, dropping the worse ones on the way.

    Depends on nothing but its arguments and the scores: ties go to the candidate given first.
    Failed candidates are dropped.

    Args:
        problem: Prepared problem; it is charged for the items asked.
        candidates: Different candidates, at least one.
        rungs: Fidelities, for example ("items:0.125", "items:0.5", "full"). Proxies may come first.
        keep: How many go on from each rung, not rising; the last number is that of winners.
        ranking: What "worse" means.
        phase: Name under which the evaluations are logged.

    Returns:
        The winners, fewer than asked for only if too many failed.

    Raises:
        InputError: Rungs and numbers do not match, or do not go from low to high and many to few.
        BudgetExhausted: A rung costs more than is left; see `halving_cost`.
    """
    steps = _check(rungs, keep)
    if not candidates:
        raise InputError("no candidate enters the halving", "give one at least")
    current = list(candidates)
    history: list[Rung] = []
    evaluations: list[Evaluation] = []
    for fidelity, count in zip(steps, keep, strict=True):
        evaluations = problem.evaluate(current, phase, fidelity)
        worked = [i for i, evaluation in enumerate(evaluations) if evaluation.ok]
        vectors = np.array([evaluations[i].vector for i in worked])
        order = ranking(problem, problem.normalise(vectors), fidelity) if worked else []
        kept = tuple(worked[i] for i in order[:count])
        history.append(Rung(fidelity, tuple(evaluations), kept))
        current = [current[i] for i in kept]
        evaluations = [evaluations[i] for i in kept]
        if not current:
            break
    return Halving(tuple(current), tuple(evaluations), tuple(history))


def halving_cost(
    problem: MergeProblem, count: int, rungs: Sequence[str | Fidelity], keep: Sequence[int]
) -> float:
    """Evaluations that a halving of `count` new candidates charges at most."""
    steps = _check(rungs, keep)
    entering = [count, *keep[:-1]]
    total, paid = 0.0, {"full": 0.0, "proxy": 0.0}
    for fidelity, number in zip(steps, entering, strict=True):
        price = problem.price(fidelity)
        total += min(number, count) * (price - paid[fidelity.measure])
        paid[fidelity.measure] = price
    return total


def _check(rungs: Sequence[str | Fidelity], keep: Sequence[int]) -> list[Fidelity]:
    steps = [Fidelity.parse(rung) for rung in rungs]
    if not steps or len(steps) != len(keep):
        raise InputError(
            f"{len(steps)} rungs and {len(keep)} numbers of candidates to keep",
            "give one number for each rung",
        )
    rising = [(not step.proxy, step.share) for step in steps]
    if rising != sorted(set(rising)):
        raise InputError(
            f"the rungs {', '.join(map(str, steps))} do not rise",
            "proxies first, then growing shares of the items",
        )
    if min(keep) < 1 or list(keep) != sorted(keep, reverse=True):
        raise InputError(f"keep={list(keep)} is no falling row of numbers", "for example 9, 3, 1")
    return steps

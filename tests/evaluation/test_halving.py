"""Fewer item evaluations, the same winner; rankings; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import BudgetExhausted, InputError
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.halving import (
    ByHypervolume,
    ByPreferences,
    halving_cost,
    successive_halving,
)
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.indicators import hypervolume
from hm3rl.objectives.scalarisation import tchebycheff
from hm3rl.paths import Candidate, PathLimits
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.build import build_tasks
from tests.evaluation.conftest import blend

CENTRE = np.full((1, 2), 1 / 2)
FULL = Fidelity()


@pytest.fixture
def problem(members: MemberSet, evaluator: Evaluator) -> MergeProblem:
    limits = PathLimits(3, 3, actions="same_depth")
    problem = MergeProblem(members, evaluator, limits, budget=20)
    problem.prepare()
    return problem


def merges(count: int) -> list[Candidate]:
    weights = np.random.default_rng(1).dirichlet(np.ones(3), count)
    return [Candidate.whole(blend(*map(float, w)), 3) for w in weights]


def test_the_winner_on_all_items_is_found_with_fewer_item_evaluations(
    zoo_members: MemberSet, tmp_path: Path
) -> None:
    names, judged = zoo_members.pool.expert_names, ("translation", "math")
    few = {name: SizedTaskSettings(kind=name, search_items=64, test_items=2) for name in judged}
    tasks = build_tasks(few, EvaluationSettings(), zoo_members.pool.tokenizer)
    rng = np.random.default_rng(0)
    candidates = [
        Candidate.whole(
            MergeRecipe(
                "task_arithmetic",
                tuple(zip(names, map(float, rng.dirichlet(np.full(3, 2.0))), strict=True)),
                scale=float(rng.uniform(0.6, 2.4)),
            ),
            8,
        )
        for _ in range(12)
    ]
    limits = PathLimits(8, 8, actions="same_depth")
    with EvaluationStore(tmp_path / "s.sqlite") as store:
        evaluator = Evaluator(zoo_members, tasks, store)
        problem = MergeProblem(zoo_members, evaluator, limits, budget=12)
        problem.prepare()
        before = evaluator.totals.items
        rungs, keep = ("items:0.125", "items:0.375", "full"), (5, 2, 1)
        halving = successive_halving(problem, candidates, rungs, keep, ByPreferences(CENTRE))
        asked = evaluator.totals.items - before
        used = problem.used
        everything = problem.evaluate(candidates, "all")
    utilities = tchebycheff(np.array([e.vector for e in everything]) / problem.z_star, CENTRE[0])
    best = int(np.argmax(utilities))
    assert halving.winners == (candidates[best],)
    assert halving.evaluations[0].scores == everything[best].scores
    assert asked == 2 * (12 * 8 + 5 * 16 + 2 * 40) and asked < 0.34 * 12 * 2 * 64
    assert used == pytest.approx(asked / (2 * 64))
    assert used == pytest.approx(halving_cost(problem, 12, rungs, keep))


def test_it_is_the_same_again_and_charges_nothing_new(problem: MergeProblem) -> None:
    candidates = merges(6)
    rungs, keep = ("proxy:0.5", "items:0.25", "full"), (4, 2, 1)
    ranking = ByPreferences(np.array([[0.5, 0.5], [0.9, 0.1]]))
    once = successive_halving(problem, candidates, rungs, keep, ranking)
    used = problem.used
    assert used == pytest.approx(6 * 0.25 + 4 * 0.25 + 2 * 0.75)
    assert used == pytest.approx(halving_cost(problem, 6, rungs, keep))
    again = successive_halving(problem, candidates, rungs, keep, ranking)
    assert problem.used == used and again.winners == once.winners
    assert [len(rung.evaluations) for rung in once.rungs] == [6, 4, 2]
    assert [rung.kept for rung in again.rungs] == [rung.kept for rung in once.rungs]


def test_failures_are_dropped(problem: MergeProblem) -> None:
    broken = Candidate.whole(blend(1.0, 0.0, 0.0, scale=1e60), 3)
    one, two = merges(2)
    ranking = ByPreferences(np.array([[0.5, 0.5]]))
    halving = successive_halving(
        problem, [broken, one, two], ("items:0.5", "full"), (3, 3), ranking
    )
    assert set(halving.winners) == {one, two} and halving.rungs[0].kept in ((1, 2), (2, 1))
    nobody = successive_halving(problem, [broken], ("items:0.5", "full"), (1, 1), ranking)
    assert nobody.winners == () and len(nobody.rungs) == 1


def test_every_preference_keeps_its_favourite_first(problem: MergeProblem) -> None:
    vectors = np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    ranking = ByPreferences(np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]), "weighted_sum")
    order = list(ranking(problem, vectors, FULL))
    assert set(order[:3]) == {0, 1, 2} and order.index(0) < order.index(4)
    single = ByPreferences(np.array([1.0, 0.0]), "weighted_sum")
    assert list(single(problem, vectors, FULL)) == [1, 3, 0, 4, 2]


def test_hypervolume_ranks_by_what_is_added_to_the_front(problem: MergeProblem) -> None:
    problem.evaluate(merges(3), "parameter")
    front = problem.archive.front()
    inside, beyond = front[0] * 0.5, front.max(axis=0) + 0.1
    a_bit = front[0] + 0.01
    vectors = np.array([inside, a_bit, beyond, inside])
    used = problem.used
    assert list(ByHypervolume()(problem, vectors, FULL)) == [2, 0, 1, 3]  # then nothing is added
    gains = [hypervolume(np.vstack([front, v])) - hypervolume(front) for v in vectors]
    assert np.argmax(gains) == 2 and problem.used == used
    assert ByHypervolume()(problem, vectors, Fidelity(0.5))[0] == 2
    assert list(ByHypervolume()(problem, vectors[[0, 2]], Fidelity(0.5, proxy=True))) == [1, 0]


def test_what_makes_no_sense_is_refused(problem: MergeProblem) -> None:
    ranking, some = ByHypervolume(), merges(2)
    for rungs, keep, message in (
        (("full",), (2, 1), "1 rungs and 2 numbers"),
        (("full", "items:0.5"), (2, 1), "do not rise"),
        (("items:0.5", "proxy"), (2, 1), "do not rise"),
        (("items:0.5", "full"), (1, 2), "no falling row"),
        (("items:0.5", "full"), (1, 0), "no falling row"),
    ):
        with pytest.raises(InputError, match=message):
            successive_halving(problem, some, rungs, keep, ranking)
    with pytest.raises(InputError, match="no candidate"):
        successive_halving(problem, [], ("full",), (1,), ranking)
    with pytest.raises(BudgetExhausted):
        successive_halving(problem, merges(25), ("full",), (1,), ranking)
    assert problem.used == 0

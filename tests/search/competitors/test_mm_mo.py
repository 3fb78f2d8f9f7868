from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import MmMoSettings, ParameterSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.indicators import hypervolume
from hm3rl.search.hm3 import HM3
from tests.search.formula import formula_problem

mm_mo = pytest.importorskip("hm3rl.search.competitors.mm_mo")
bayesian = pytest.importorskip("hm3rl.search.bayesian")

QUICK = MmMoSettings(sparsity=False, samples=8, restarts=1, steps=8)


def test_the_strongest_are_those_that_make_up_the_hypervolume():
    scores = np.random.default_rng(0).random((9, 3))
    chosen = mm_mo.strongest(scores, 5)
    assert len(set(chosen)) == 5
    assert chosen[0] == max(range(9), key=lambda i: hypervolume(scores[i]))
    best = max(hypervolume(scores[list(rows)]) for rows in combinations(range(9), 5))
    # Greedy choice reaches (1 - 1/e) of the best in theory, and nearly all of it in fact.
    assert hypervolume(scores[chosen]) > 0.97 * best
    assert sorted(mm_mo.strongest(scores[:2], 5)) == [0, 1]


def test_by_default_it_has_the_published_sizes_and_as_a_parameter_level_the_small_ones():
    published = MmMoSettings()
    assert (published.initial, published.batch, published.samples) == (10, 4, 128)
    assert ParameterSettings().mm_mo.samples == 16


def test_crossings_are_what_the_formula_says():
    rng = np.random.default_rng(0)
    proposal, elites = rng.random(2000), rng.random((5, 2000))
    trials = mm_mo.crossings(proposal, elites, np.random.default_rng(1))
    assert trials.shape == (5, 2000) and trials.min() >= 0 and trials.max() <= 1
    kept = (trials == proposal).mean(axis=1)
    assert kept == pytest.approx(np.full(5, 0.5), abs=0.05)
    inside = (trials != proposal) & (trials > 0) & (trials < 1)
    step = trials - proposal - mm_mo.F * (elites - proposal)
    for row, elite in enumerate(elites):
        differences = [
            mm_mo.F * (a - b) for a in elites for b in elites if a is not b and a is not elite
        ]
        columns = inside[row]
        assert any(np.allclose(step[row, columns], d[columns]) for d in differences)


def test_with_two_elites_there_is_no_difference_and_one_entry_always_changes():
    proposal, elites = np.zeros(1), np.ones((2, 1))
    for seed in range(20):
        trials = mm_mo.crossings(proposal, elites, np.random.default_rng(seed))
        assert (trials == mm_mo.F).all()


class Known:
    """A surrogate whose proposals and variances are known: the variance is the first entry."""

    fitted = True

    def __init__(self, vectors, outcomes, reference, settings, seed) -> None:
        self.reference = reference
        Known.last = self

    def propose(self, count: int) -> np.ndarray:
        return np.linspace(0.2, 0.4, count)[:, None] * np.ones((1, 6))

    def variance(self, vectors: np.ndarray) -> np.ndarray:
        self.pool = vectors
        return np.repeat(vectors[:, :1], 3, axis=1)


@pytest.mark.parametrize("crossed", [True, False])
def test_screening_keeps_what_the_model_knows_least_about(monkeypatch, crossed: bool):
    monkeypatch.setattr(mm_mo, "Surrogate", Known)
    problem = formula_problem(budget=14)
    settings = MmMoSettings(sparsity=False, weak_to_strong=crossed)
    recipes = mm_mo.search_merges(problem, 14, settings, np.random.default_rng(0), "test")
    pool = Known.last.pool
    assert len(pool) == (24 if crossed else 4)
    least_known = np.sort(pool[:, 0])[-4:]
    chosen = [recipe.density_of("e0") if "e0" in recipe.experts else None for recipe in recipes]
    assert len(recipes) == 14 and None not in chosen[10:]
    weights = sorted(dict(recipe.weights).get("e0", 0.0) for recipe in recipes[10:])
    assert weights == pytest.approx(least_known, abs=1e-3)
    assert (Known.last.reference == 0).all()


def test_without_screening_one_of_each_family_is_drawn(monkeypatch):
    monkeypatch.setattr(mm_mo, "Surrogate", Known)
    monkeypatch.setattr(mm_mo, "crossings", lambda p, elites, rng: p + 1e-3 * np.ones((5, 1)))
    problem = formula_problem(budget=14)
    settings = MmMoSettings(sparsity=False, fisher=False)
    recipes = mm_mo.search_merges(problem, 14, settings, np.random.default_rng(0), "test")
    weights = sorted(dict(recipe.weights)["e0"] for recipe in recipes[10:])
    assert weights == pytest.approx(np.linspace(0.2, 0.4, 4), abs=2e-3)


def test_the_model_knows_more_where_it_has_seen_more_and_leaves_torchs_generator_alone():
    rng = np.random.default_rng(0)
    vectors = 0.3 * rng.random((12, 2))
    outcomes = np.stack([np.sin(vectors.sum(1)), vectors[:, 0] ** 2], axis=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    surrogate = bayesian.Surrogate(vectors, outcomes, np.zeros(2), QUICK, seed=1)
    near, far = surrogate.variance(np.array([[0.15, 0.15], [0.95, 0.95]]))
    proposals = surrogate.propose(3)
    assert (far > near).all()
    assert proposals.shape == (3, 2) and proposals.min() >= 0 and proposals.max() <= 1
    assert torch.equal(torch.get_rng_state(), before)
    again = bayesian.Surrogate(vectors, outcomes, np.zeros(2), QUICK, seed=1)
    assert (again.propose(3) == proposals).all()


@pytest.mark.slow
def test_the_acquisition_alone_beats_random_vectors_of_the_same_space():
    # At 22 evaluations the lead is 2 % and gone on some processors; here it is 5 to 7 %.
    budget, settings = 42, replace(QUICK, restarts=2, steps=20, weak_to_strong=False)
    found: dict[int, list[float]] = {budget: [], 10: []}
    for seed in range(2):
        for initial, reached in found.items():
            problem, rng = formula_problem(budget=budget), np.random.default_rng(seed)
            mm_mo.search_merges(problem, budget, replace(settings, initial=initial), rng, "test")
            reached.append(problem.archive.hypervolume())
    assert np.mean(found[10]) > 1.02 * np.mean(found[budget])


def test_sparsity_is_measured_in_distances_of_the_experts(problem: MergeProblem):
    sparsity = mm_mo.Sparsity(problem)
    experts = problem.pool.expert_names
    alone = [sparsity(MergeRecipe.of("task_arithmetic", {name: 1.0})) for name in experts]
    assert np.mean(alone) == pytest.approx(-1) and max(alone) < 0
    half = sparsity(MergeRecipe.of("task_arithmetic", {experts[0]: 0.5}))
    assert half == pytest.approx(alone[0] / 2, rel=1e-3)
    assert sparsity(MergeRecipe.of("task_arithmetic", {})) == 0


def test_it_serves_as_the_parameter_level_of_hm3(searched):
    sizes = ("initial=4", "samples=4", "restarts=1", "steps=5")
    words = [f"search.parameter.mm_mo.{size}" for size in sizes]
    result = searched("budget=20", "search.parameter.sampler=mm_mo", *words)
    problem = result.problem
    merges, _, _ = HM3(RunSettings()).split(20, 3)
    first = [problem.candidate(point.key) for point in problem.trace[:merges]]
    assert all(len(c.recipes) == 1 and len(c.path.members) == 1 for c in first)
    assert {c.recipes[0].operator for c in first} == {"dare_ties"} and problem.used == 20
    members = {r.name for p in problem.trace[merges:] for r in problem.candidate(p.key).recipes}
    assert members and members <= {c.recipes[0].name for c in first}

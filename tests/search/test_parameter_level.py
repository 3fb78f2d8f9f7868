from __future__ import annotations

import numpy as np
import pytest

from hm3rl.config.searchers import ParameterSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.indicators import hypervolume
from hm3rl.paths.candidate import Candidate
from hm3rl.search.parameter_level import RecipeSampler, search_recipes, select_members

EXPERTS = ("translation", "math", "code")
SIMPLEX = ParameterSettings(
    operators=["task_arithmetic", "ties", "dare_ties"], weights="simplex", sampler="elites"
)


@pytest.fixture
def sampler() -> RecipeSampler:
    return RecipeSampler(EXPERTS, SIMPLEX, np.random.default_rng(0))


def test_drawn_recipes_cover_operators_and_ranges(sampler: RecipeSampler):
    recipes = [sampler.draw() for _ in range(300)]
    assert {r.operator for r in recipes} == {"task_arithmetic", "ties", "dare_ties"}
    scales = np.array([r.scale for r in recipes])
    assert scales.min() >= 0.6 and scales.max() <= 3.0 and np.ptp(scales) > 2
    sparse = np.array([r.density for r in recipes if r.operator != "task_arithmetic"])
    assert sparse.min() >= 0.2 and sparse.max() <= 0.9
    assert all(r.density == 1.0 for r in recipes if r.operator == "task_arithmetic")
    assert all(sum(dict(r.weights).values()) == pytest.approx(1, abs=1e-3) for r in recipes)


def test_variations_stay_near_their_parent_and_in_range(sampler: RecipeSampler):
    parent = sampler.draw()
    children = [sampler.vary(parent) for _ in range(200)]
    weights = np.array([[dict(r.weights).get(e, 0.0) for e in EXPERTS] for r in children])
    own = np.array([dict(parent.weights)[e] for e in EXPERTS])
    far = np.random.default_rng(1).dirichlet(np.ones(3), 200)
    assert np.abs(weights - own).sum(1).mean() < 0.6 * np.abs(far - own).sum(1).mean()
    assert all(0.6 <= r.scale <= 3.0 and 0.2 <= r.density <= 1.0 for r in children)
    assert len({r.key for r in children}) == 200


def test_an_expert_of_weight_zero_can_return(sampler: RecipeSampler):
    parent = sampler._recipe("ties", np.array([1.0, 0.0, 0.0]), 1.0, 0.5)
    children = [sampler.vary(parent, step=1.0) for _ in range(50)]
    assert max(dict(r.weights).get("code", 0.0) for r in children) > 0.02


def test_free_weights_are_coefficients_of_whole_task_vectors():
    sampler = RecipeSampler(EXPERTS, ParameterSettings(), np.random.default_rng(0))
    recipes = [sampler.draw() for _ in range(300)]
    weights = np.array([[dict(r.weights).get(e, 0.0) for e in EXPERTS] for r in recipes])
    assert weights.min() >= 0 and weights.max() <= 1
    assert weights.sum(axis=1).min() < 0.7 and weights.sum(axis=1).max() > 2.3
    children = [sampler.vary(recipes[0]) for _ in range(200)]
    moved = np.array([[dict(r.weights).get(e, 0.0) for e in EXPERTS] for r in children])
    assert moved.min() >= 0 and moved.max() <= 1 and 0.1 < np.abs(moved - weights[0]).mean() < 0.3
    assert all(r.scale == 1.0 and not r.normalise for r in [*recipes, *children])


def test_the_same_seed_proposes_the_same_recipes():
    def run() -> list[str]:
        sampler = RecipeSampler(EXPERTS, ParameterSettings(), np.random.default_rng(7))
        first = sampler.draw()
        return [first.key, sampler.vary(first).key]

    assert run() == run()


def test_the_budget_is_spent_to_the_last_evaluation(problem: MergeProblem):
    recipes = search_recipes(
        problem, 13, ParameterSettings(), np.random.default_rng(0), "parameter"
    )
    assert problem.used == 13 == len({recipe.key for recipe in recipes})


def test_members_are_chosen_for_what_they_add(problem: MergeProblem):
    recipes = search_recipes(
        problem, 12, ParameterSettings(), np.random.default_rng(0), "parameter"
    )
    chosen = select_members(problem, recipes, 3)
    keys = [problem.key(Candidate.whole(r, problem.pool.num_layers)) for r in recipes]
    points = {
        r: problem.archive.vector(k) / problem.z_star for r, k in zip(recipes, keys, strict=True)
    }
    picked = hypervolume(np.array([points[r] for r in chosen]))
    rng = np.random.default_rng(0)
    others = [
        hypervolume(np.array([points[recipes[i]] for i in rng.choice(12, 3, replace=False)]))
        for _ in range(20)
    ]
    assert len(set(chosen)) == 3
    assert picked >= np.mean(others)

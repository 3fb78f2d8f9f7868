from __future__ import annotations

import numpy as np
import pytest

from hm3rl.config.searchers import ParameterSettings
from hm3rl.search.model_based import search_by_model
from hm3rl.search.parameter_level import search_recipes
from tests.search.formula import decisions, formula_problem

OPERATORS = ["task_arithmetic", "ties"]


def reached(search, seed: int, budget: int = 60) -> float:
    problem = formula_problem(budget=budget)
    search(problem, budget, ParameterSettings(), np.random.default_rng(seed), "parameter")
    return problem.archive.hypervolume()


def test_a_model_of_the_scores_gets_further_than_varying_the_best():
    modelled = [reached(search_by_model, seed) for seed in range(3)]
    varied = [reached(search_recipes, seed) for seed in range(3)]
    assert min(modelled) > max(varied)


def test_the_budget_is_spent_to_the_last_evaluation_on_different_recipes():
    problem = formula_problem(budget=33)
    told: list[int] = []
    recipes = search_by_model(
        problem,
        33,
        ParameterSettings(operators=OPERATORS),
        np.random.default_rng(0),
        "parameter",
        scored_batch=lambda batch: told.append(len(batch)),
    )
    assert problem.used == 33 == len({recipe.key for recipe in recipes}) == sum(told)
    assert {recipe.operator for recipe in recipes} == set(OPERATORS)
    assert problem.deciding > 0


@pytest.mark.parametrize(("warm_up", "first"), [(0.5, [10, 6, 10]), (0.1, [6, 10, 10])])
def test_a_model_is_asked_after_a_few_evaluations_for_each_number(warm_up: float, first: list[int]):
    problem = formula_problem(budget=60)
    told: list[int] = []
    search_by_model(
        problem,
        60,
        ParameterSettings(warm_up=warm_up),
        np.random.default_rng(0),
        "parameter",
        scored_batch=lambda batch: told.append(len(batch)),
    )
    assert told[:3] == first and sum(told) == 60


def test_the_same_seed_finds_the_same_recipes_and_a_plan_fixes_the_first():
    def run(budget: int, planned: int) -> list[str]:
        problem = formula_problem(budget=budget)
        settings = ParameterSettings(warm_up=0.2)
        rng = np.random.default_rng(3)
        search_by_model(problem, budget, settings, rng, "parameter", planned=planned)
        return decisions(problem)

    assert run(40, 40) == run(40, 40)
    assert run(50, 40)[:30] == run(40, 40)[:30]

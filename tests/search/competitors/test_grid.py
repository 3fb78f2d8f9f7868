from __future__ import annotations

import pytest

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import MergingSettings, ParameterSettings
from hm3rl.search.competitors.grid import Grid, grid_recipes
from tests.search.formula import decisions, formula_problem

EXPERTS = ("a", "b", "c")


OPERATORS = ["task_arithmetic", "ties", "dare_ties"]


@pytest.mark.parametrize(("level", "points"), [(1, 6 * 3), (2, 10 * 10), (3, 15 * 21)])
def test_a_level_of_the_simplex_has_the_points_its_docstring_says(level: int, points: int):
    # r scales for task arithmetic, r scales times r densities for TIES and DARE-TIES.
    settings = ParameterSettings(operators=OPERATORS, weights="simplex")
    assert len(grid_recipes(EXPERTS, settings, level)) == points


@pytest.mark.parametrize(("level", "points"), [(1, 26 * 3), (2, 63 * 5)])
def test_a_level_of_free_weights_has_the_points_its_docstring_says(level: int, points: int):
    # (r + 2)^3 - 1 coefficients; one density for task arithmetic, r for TIES and DARE-TIES.
    recipes = grid_recipes(EXPERTS, ParameterSettings(operators=OPERATORS), level)
    assert len(recipes) == points
    assert {recipe.scale for recipe in recipes} == {1.0}
    assert {w for recipe in recipes for _, w in recipe.weights} <= {0.5, 1.0, 0.3333, 0.6667}


def test_operators_get_only_the_weights_they_can_carry_out():
    recipes = grid_recipes(EXPERTS, ParameterSettings(operators=["slerp"], weights="simplex"), 2)
    assert {len(recipe.weights) for recipe in recipes} == {2} and len(recipes) == 6


def grid(planned: int = 0) -> Grid:
    return Grid(RunSettings(search=MergingSettings("grid"), planned_budget=planned))


def test_the_finest_grid_that_fits_comes_first_and_whole():
    problem = formula_problem(budget=90)
    grid().search(problem, 90)
    wanted = {recipe.key for recipe in grid_recipes(("e0", "e1", "e2"), ParameterSettings(), 2)}
    first = [problem.candidate(key).recipes[0].key for key in decisions(problem)[:63]]
    assert set(first) == wanted and problem.used == 90


def test_the_plan_decides_about_the_grid_not_the_budget_of_a_longer_life():
    short, long = formula_problem(budget=50), formula_problem(budget=120)
    grid().search(short, 50)
    grid(planned=50).search(long, 120)
    assert decisions(long)[:50] == decisions(short) and long.used == 120

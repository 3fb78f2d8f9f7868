from __future__ import annotations

import pytest

from hm3rl.search.grid import Grid, grid_recipes
from hm3rl.settings import ParameterSettings, SearchSettings
from tests.search.formula import decisions, formula_problem

EXPERTS = ("a", "b", "c")


@pytest.mark.parametrize(("level", "points"), [(1, 6 * 3), (2, 10 * 10), (3, 15 * 21)])
def test_a_level_has_the_points_its_docstring_says(level: int, points: int):
    # r scales for task arithmetic, r scales times r densities for TIES and DARE-TIES.
    assert len(grid_recipes(EXPERTS, ParameterSettings(), level)) == points


def test_operators_get_only_the_weights_they_can_carry_out():
    recipes = grid_recipes(EXPERTS, ParameterSettings(operators=["slerp"]), 2)
    assert {len(recipe.weights) for recipe in recipes} == {2} and len(recipes) == 6


def test_the_finest_grid_that_fits_comes_first_and_whole():
    problem = formula_problem(budget=130)
    Grid(SearchSettings(), seed=0).search(problem, 130)
    wanted = {recipe.key for recipe in grid_recipes(("e0", "e1", "e2"), ParameterSettings(), 2)}
    first = [problem.candidate(key).recipes[0].key for key in decisions(problem)[:100]]
    assert set(first) == wanted and problem.charged == 130


def test_the_plan_decides_about_the_grid_not_the_budget_of_a_longer_life():
    short, long = formula_problem(budget=50), formula_problem(budget=120)
    Grid(SearchSettings(), seed=0).search(short, 50)
    Grid(SearchSettings(), seed=0, planned=50).search(long, 120)
    assert decisions(long)[:50] == decisions(short) and long.charged == 120

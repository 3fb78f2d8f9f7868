"""What every competitor keeps to, on problems whose scores are a formula."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.common.plan import understood
from hm3rl import api, registry
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.run.build import build_searcher, check_settings
from hm3rl.search.base import Searcher
from tests.run import test_resume
from tests.search.formula import decisions, formula_problem

NAMES = ("nsga2", "nsga3", "de", "cmaes", "grid", "map", "mm_mo", "moholl")

QUICK = [
    "search.sparsity=false",  # a formula has no weights to measure
    "search.proposer=random",
    *(f"search.{key}" for key in ("initial=40", "batch=5", "samples=2", "restarts=1", "steps=1")),
]
PLANS = ("grid", "map", "cmaes")
"""Methods whose decisions depend on the budget."""


def searcher(name: str, *overrides: str, seed: int = 0) -> Searcher:
    if missing := registry.find("searcher", name).missing_packages():
        pytest.skip(f"needs {', '.join(missing)}")
    words = [f"search={name}", f"seed={seed}", "budget=60"]
    words += understood(words, QUICK)
    settings = compose_settings([*words, *overrides])
    check_settings(settings)
    return build_searcher(settings)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_spent_on_as_many_distinct_candidates(name: str, k: int):
    problem = formula_problem(k, budget=60)
    searcher(name).search(problem, 45)
    assert problem.used == 45 == len(set(decisions(problem)))


@pytest.mark.parametrize("name", NAMES)
def test_decisions_depend_on_the_seed_alone(name: str):
    problems = [formula_problem() for _ in range(3)]
    for problem, seed in zip(problems, (0, 0, 1), strict=True):
        searcher(name, seed=seed).search(problem, 50)
    first, again, other = map(decisions, problems)
    assert first == again != other


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PLANS])
def test_more_budget_begins_with_the_same_candidates(name: str):
    short, long = formula_problem(budget=37), formula_problem(budget=60)
    searcher(name).search(short, 37)
    searcher(name).search(long, 60)
    assert decisions(long)[:37] == decisions(short)


@pytest.mark.parametrize("name", PLANS)
def test_what_plans_by_the_budget_keeps_its_plan_when_it_goes_on(name: str):
    short, long = formula_problem(budget=47), formula_problem(budget=60)
    searcher(name, "budget=47").search(short, 47)
    searcher(name, "planned_budget=47").search(long, 60)
    assert decisions(long)[:47] == decisions(short) and long.used == 60


@pytest.mark.parametrize("name", NAMES)
def test_candidates_that_fail_are_paid_for_and_do_not_stop_the_search(name: str):
    problem = formula_problem(fails=lambda recipe: int(recipe.key, 16) % 3 == 0)
    searcher(name).search(problem, 60)
    assert problem.used == 60 and 5 < problem.failed < 40
    assert len(problem.archive) == 4 + 60 - problem.failed


@pytest.mark.parametrize("name", NAMES)
def test_a_space_without_a_working_candidate_ends_too(name: str):
    problem = formula_problem(fails=lambda recipe: True)
    searcher(name).search(problem, 60)
    assert problem.used == 60 == problem.failed


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "de"])
def test_it_beats_random_recipes(name: str):
    def reached(method: str) -> float:
        found = []
        for seed in range(4):
            problem = formula_problem(budget=300)
            searcher(method, *RECIPES, seed=seed).search(problem, 300)
            found.append(problem.archive.hypervolume())
        return float(np.mean(found))

    assert reached(name) > reached("parameter_only")


RECIPES = (
    "search.parameter.operators=[ties]",
    "search.parameter.weights=simplex",
    "search.parameter.sampler=elites",
    "search.parameter.warm_up=1",
)
"""With nothing but a warm-up `parameter_only` is random search over recipes."""


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "de", "grid"])
def test_a_small_space_is_exhausted_and_left(name: str):
    words = ["search.parameter.operators=[task_arithmetic,ties,linear]"]
    words += ["search.parameter.weights=simplex"]
    words += [f"search.parameter.scale_{end}=1" for end in ("min", "max")]
    words += [f"search.parameter.density_{end}=0.5" for end in ("min", "max")]
    # One expert: of every operator there is one merge.
    problem = formula_problem(1, budget=60)
    searcher(name, *words).search(problem, 60)
    assert problem.used == 3


@pytest.mark.parametrize("name", ["nsga2", pytest.param("mm_mo", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_one_that_went_through(searched, name: str, tmp_path: Path):
    searcher(name)
    begun, whole = searched("budget=12", f"search={name}"), searched("budget=20", f"search={name}")
    run = tmp_path / "run"
    shutil.copytree(begun.folder.path, run)
    resumed = api.search(f"resume={run}", "budget=20")
    assert resumed.summary["resumed"] and resumed.problem.evaluator.totals.hits >= 12
    assert test_resume.decisions(run) == test_resume.decisions(whole.folder.path)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=r"nsga2 needs pymoo(.|\n)*hm3rl\[baselines\]"):
        check_settings(compose_settings(["search=nsga2"]))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["search=nsga2", "search.space=dreams"], "search.space=dreams"),
        (["search=de", "search.population=2"], "search.population=2"),
        (["search=de", "search.space=paths"], "unknown key search.space"),
        (["search.population=20"], "search=de"),  # an option that the chosen searcher lacks
    ],
)
def test_bad_settings_are_named(words: list[str], named: str):
    with pytest.raises(InputError, match=named):
        check_settings(compose_settings(words))


def test_a_budget_below_ten_generations_of_cmaes_is_named():
    pytest.importorskip("cma")
    with pytest.raises(InputError, match=r"budget=40 .*(.|\n)*give budget=41 at least"):
        check_settings(compose_settings(["search=cmaes", "budget=40"]))

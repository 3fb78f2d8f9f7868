"""What every competitor over paths keeps to, on problems whose scores are a formula."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.common.plan import understood
from hm3rl import api, registry
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.paths.limits import PathLimits
from hm3rl.run.build import build_searcher, check_settings
from tests.run import test_resume
from tests.search.formula import decisions
from tests.search.formula_paths import ANY, DEPTH, path_problem

NAMES = ("nsga2_paths", "nsga3_paths", "cmaes_dfs", "rmm", "depth_wise")
SAME = PathLimits(DEPTH, DEPTH, actions="same_depth")
BOUNDS = {"same_depth": SAME, "any": ANY}


def words(name: str) -> tuple[str, ...]:
    """Overrides that select a searcher of `NAMES`."""
    own = (f"search={name}",)
    return (*own, *understood(own, ("search.epochs=4", "search.proposals=60")))


def searcher(name: str, *overrides: str, seed: int = 0):
    settings = compose_settings([*words(name), f"seed={seed}", "budget=60", *overrides])
    if missing := registry.find("searcher", settings.search.name).missing_packages():
        pytest.skip(f"needs {', '.join(missing)}")
    check_settings(settings)
    return build_searcher(settings)


@pytest.mark.parametrize("limits", BOUNDS)
@pytest.mark.parametrize("levels", ["both", "paths"])
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_spent_on_legal_paths(name: str, levels: str, limits: str):
    problem = path_problem(3, budget=40, limits=BOUNDS[limits])
    searcher(name, f"search.levels={levels}").search(problem, 30)
    # What is left of halving is less than the price of one more candidate.
    assert 29 < problem.used <= 30
    # Full evaluations are of distinct candidates; that they are legal the problem itself checks.
    assert len(problem.archive) - 4 <= 30
    merged = any(problem.candidate(key).recipes for key in problem.archive.keys)
    assert merged == (levels == "both" or name == "rmm")


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_objectives_will_do(name: str, k: int):
    problem = path_problem(k, budget=30)
    searcher(name).search(problem, 30)
    assert 29 < problem.used <= 30


@pytest.mark.parametrize("name", NAMES)
def test_decisions_depend_on_the_seed_alone(name: str):
    problems = [path_problem(limits=ANY) for _ in range(3)]
    for problem, seed in zip(problems, (0, 0, 1), strict=True):
        np.random.seed(problems.index(problem))  # what others draw must not matter
        searcher(name, seed=seed).search(problem, 30)
    first, again, other = map(decisions, problems)
    assert first == again != other


@pytest.mark.parametrize("name", NAMES)
def test_candidates_that_fail_are_paid_for_and_do_not_stop_the_search(name: str):
    def fails(candidate) -> bool:
        return len(candidate.path.stitch_points) % 2 == 1

    problem = path_problem(fails=fails)
    searcher(name).search(problem, 40)
    assert 39 < problem.used <= 40


@pytest.mark.parametrize("name", NAMES)
def test_a_small_space_is_exhausted_and_left(name: str):
    # Two members and a fixed stem: 16 paths, 15 of them new.
    limits = PathLimits(DEPTH, DEPTH, stem="e0", actions="same_depth")
    problem = path_problem(1, budget=60, limits=limits)
    one = ["search.operators=[task_arithmetic]"] if name == "rmm" else []
    searcher(name, "search.levels=paths", *one).search(problem, 60)
    # rmm's second member is a merge, whose own path is as new as any other.
    assert problem.used == 15


@pytest.mark.parametrize("name", NAMES)
def test_it_beats_random_paths(name: str):
    def reached(method: str) -> float:
        found = []
        for seed in range(2):
            problem = path_problem(3, budget=80)
            more = ["search.epochs=20"] if method == "rmm" else []
            searcher(method, "search.levels=paths", *more, seed=seed).search(problem, 80)
            found.append(problem.archive.hypervolume())
        return float(np.mean(found))

    assert reached(name) > reached("random")


@pytest.mark.parametrize("name", NAMES[:-1])
def test_more_budget_begins_with_the_same_candidates(name: str):
    short, long = path_problem(budget=61, limits=ANY), path_problem(budget=80, limits=ANY)
    for problem in (short, long):
        searcher(name, "planned_budget=61").search(problem, problem.budget)
    assert decisions(long)[:61] == decisions(short)


@pytest.mark.parametrize("name", NAMES[-2:])
def test_a_resumed_run_ends_as_one_that_went_through(searched, name: str, tmp_path: Path):
    searcher(name)
    one = [*words(name), "search.levels=paths"]
    begun, whole = searched("budget=6", *one), searched("budget=10", *one)
    run = tmp_path / "run"
    shutil.copytree(begun.folder.path, run)
    resumed = api.search(f"resume={run}", "budget=10")
    assert resumed.summary["resumed"] and resumed.problem.evaluator.totals.hits >= 6
    # What only the smaller search asked for stays, too: it was paid for.
    asked = [one for one in test_resume.decisions(run) if one[1] != "earlier"]
    assert asked == test_resume.decisions(whole.folder.path)


@pytest.mark.parametrize("preferences", [1, 3])
def test_rmm_trains_one_agent_for_each_preference_if_asked(preferences: int):
    problem = path_problem(budget=30)
    searcher("rmm", f"search.preferences={preferences}").search(problem, 30)
    assert problem.used == 30


def test_experts_that_cannot_be_merged_may_be_stitched_only():
    for name in ("depth_wise", "cmaes_dfs", "nsga2_paths"):
        assert not searcher(name, "search.levels=paths").merges
        assert searcher(name).merges
    assert searcher("rmm", "search.levels=paths").merges
    assert not searcher("architecture_only").merges


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["search=random", "search.levels=some"], "search.levels=some"),
        (["search.levels=paths"], "unknown key search.levels"),
        (["search=nsga3", "search.levels=paths"], "nsga3_paths"),
        (["search=random", "search.space=paths"], "search=nsga2"),
        (["search=rmm", "search.episodes=0"], "search.episodes=0"),
        (["search=rmm", "search.operators=[]"], "search.operators is empty"),
        (["search=rmm", "search.operators=[tiess]"], "unknown operator 'tiess'"),
        (["search=depth_wise", "search.eta=1"], "search.eta=1"),
        (
            ["search=cmaes_dfs", "budget=40"],
            r"budget=40, of which the parameter level gets 16(.|\n)*give budget=60 at least",
        ),
        (
            ["search=cmaes_dfs", "search.scale_max=2", "paths.alignment=scalar"],
            "search.scale_max=2 with paths.alignment=scalar",
        ),
    ],
)
def test_bad_settings_are_named(words: list[str], named: str):
    needed = [word.partition("=")[2] for word in words if word.startswith("search=")]
    for name in needed:
        if missing := registry.find("searcher", name).missing_packages():
            pytest.skip(f"needs {', '.join(missing)}")
    with pytest.raises(InputError, match=named):
        check_settings(compose_settings(words))

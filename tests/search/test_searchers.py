from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hm3rl import registry
from hm3rl.config.schema import RunSettings
from hm3rl.files import RunFolder
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import SearchResult
from hm3rl.search.hm3 import HM3

Run = Callable[..., SearchResult]


def skip_without_packages(name: str) -> None:
    if missing := registry.find("searcher", name).missing_packages():
        pytest.skip(f"needs {', '.join(missing)}")


def phases(result: SearchResult) -> Counter[str]:
    with result.folder.evaluations.open() as stream:
        return Counter(row["phase"] for row in csv.DictReader(stream))


@pytest.mark.parametrize("name", registry.SHIPPED["searcher"])
def test_every_searcher_spends_its_budget_exactly(searched: Run, name: str):
    skip_without_packages(name)
    result = searched("budget=20", f"search={name}") if name != "hm3" else searched("budget=20")
    if name == "depth_wise":  # some items of many candidates, whose parts need not add up
        assert 19 < result.problem.used <= 20
        return
    assert result.problem.used == 20 == len(result.problem.trace)
    assert len({point.key for point in result.problem.trace}) == 20
    assert phases(result)["sources"] == 4


SHARES = "search.parameter_share=0.2"


def test_hm3_splits_its_budget_as_it_is_told(searched: Run):
    counts = phases(searched("budget=20", SHARES))
    assert (counts["parameter"], counts["offline"], counts["online"]) == (4, 4, 12)


@pytest.mark.parametrize(
    ("budget", "experts", "parts"),
    [
        (300, 3, (60, 60, 180)),
        (300, 5, (80, 60, 160)),
        (100, 3, (20, 20, 60)),
        (100, 4, (40, 20, 40)),
        (100, 5, (40, 20, 40)),  # never more than what is left for the online phase
        (60, 3, (20, 12, 28)),
        (60, 2, (12, 12, 36)),
        (20, 3, (8, 4, 8)),
    ],
)
def test_more_experts_or_a_small_budget_give_merges_a_larger_share(
    budget: int, experts: int, parts: tuple[int, int, int]
):
    assert HM3(RunSettings()).split(budget, experts) == parts


@pytest.mark.parametrize("name", ["rmm", "random"])
def test_competitors_spend_as_much_on_merges(searched: Run, name: str):
    assert phases(searched("budget=20", f"search={name}"))["parameter"] == 8


def test_the_ablations_drop_a_level_or_a_phase(searched: Run):
    counts = phases(searched("budget=20", SHARES, "search=architecture_only"))
    assert (counts["parameter"], counts["offline"], counts["online"]) == (0, 5, 15)
    counts = phases(searched("budget=20", SHARES, "search=no_offline"))
    assert (counts["parameter"], counts["offline"], counts["online"]) == (4, 0, 16)


@pytest.mark.parametrize("budget", range(3, 40))
def test_every_phase_gets_at_least_one_evaluation(budget: int):
    parts = HM3(RunSettings()).split(budget, 3)
    assert sum(parts) == budget and min(parts) >= 1


def test_architecture_only_uses_no_merged_member(searched: Run):
    result = searched("budget=20", "search=architecture_only")
    assert all(result.problem.candidate(p.key).recipes == () for p in result.problem.trace)


def test_parameter_only_uses_whole_merged_models(searched: Run):
    result = searched("budget=20", "search=parameter_only")
    for point in result.problem.trace:
        assert len(result.problem.candidate(point.key).path.members) == 1


def test_the_hypervolume_never_falls_and_starts_at_the_sources(searched: Run):
    result = searched("budget=20")
    curve = [point.hypervolume for point in result.problem.trace]
    sources = result.summary["hypervolume"]["sources_search"]
    assert (np.diff([sources, *curve]) >= 0).all()
    assert result.summary["hypervolume"]["search"] == pytest.approx(curve[-1])
    assert sum(result.summary["chosen_by"].values()) == 20


def test_the_same_seed_gives_the_same_run_and_another_seed_another(searched: Run):
    first = [p.key for p in searched("budget=20").problem.trace]
    again = [p.key for p in searched("budget=20", "name=again").problem.trace]
    other = [p.key for p in searched("budget=20", "seed=1").problem.trace]
    assert first == again != other


def test_the_folder_holds_what_the_design_says(searched: Run):
    folder: RunFolder = searched("budget=20").folder
    expected = {"config.yaml", "environment.json", "evaluations.sqlite", "front.csv", "agent.zip"}
    expected |= {"leaderboard.md", "pareto.png", "hypervolume.png", "run.log", "summary.json"}
    assert expected <= {path.name for path in Path(folder.path).iterdir()}
    environment = json.loads(folder.environment.read_text())
    assert set(environment["sources"]) == {"base", "translation", "math", "code"}


def test_front_csv_has_both_splits_and_rebuildable_paths(searched: Run):
    result = searched("budget=20")
    with result.folder.front.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(result.problem.archive.front_keys())
    for row, model in zip(rows, result.front, strict=True):
        assert row["path"] == str(model.candidate.path)
        assert float(row["search_math"]) == pytest.approx(model.search.vector[1], abs=1e-4)
        assert float(row["test_math"]) == pytest.approx(model.test.vector[1], abs=1e-4)
        assert 0 <= float(row["test_translation_chrf"]) <= 1


@pytest.mark.parametrize("search", ["hm3", "depth_wise"])
def test_a_search_may_decide_by_proxies_and_is_tested_in_full(searched: Run, search: str):
    skip_without_packages(search)
    result = searched("budget=20", f"search={search}", "evaluation.fidelity=proxy")
    assert result.summary["fidelity"] == "proxy" and 19 < result.problem.used <= 20
    keys = {point.key for point in result.problem.trace} & set(result.problem.archive.keys)
    assert {result.problem.evaluation(key).fidelity for key in keys} == {"proxy"}
    assert {row.test.fidelity for row in result.front} == {"full"}
    run = FinishedRun(result.folder.path)
    best = run.archive.keys[int(run.archive.normalised.sum(axis=1).argmax())]
    assert run.evaluation(best).fidelity == "proxy"
    assert "proxies" in result.folder.leaderboard.read_text()

"""Where candidates are scored changes nothing of a search."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.events import NullLogger
from hm3rl.run import build
from hm3rl.run.job import SearchResult
from tests.small_search import FEW_ITEMS

SPLITS = ("search", "test")


def decisions(result: SearchResult) -> list[dict[str, str]]:
    with result.folder.evaluations.open() as stream:
        return [
            {name: row[name] for name in ("evaluations", "phase", "key", "hypervolume", "path")}
            for row in csv.DictReader(stream)
        ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_search_with_ray_is_the_search_in_process(
    searched: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    here = searched("budget=20")
    there = searched("budget=20", "evaluation/backend=ray", "threads=1")
    assert decisions(here) == decisions(there)
    assert here.folder.front.read_text() == there.folder.front.read_text()
    assert not ray.is_initialized()  # it went with the search


def test_the_group_and_the_key_say_the_same() -> None:
    for words in (["evaluation/backend=ray"], ["evaluation.backend=ray"]):
        assert api.settings(*words).evaluation.backend == "ray"
    assert api.settings().evaluation.backend == "in_process"


def test_ray_that_is_not_there_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="Ray is not installed") as caught:
        build.check_settings(api.settings("evaluation/backend=ray"))
    assert "hm3rl[ray]" in caught.value.remedy
    with pytest.raises(InputError, match=r"evaluation\.backend=dask(.|\n)*in_process, ray"):
        build.check_settings(api.settings("evaluation.backend=dask"))


def test_a_search_in_bfloat16_has_scores_of_its_own(
    searched: Callable[..., SearchResult], tmp_path: Path
) -> None:
    path = tmp_path / "shared.sqlite"
    few = [f"tasks.{t}.{s}_items=8" for t in ("translation", "math", "code") for s in SPLITS]
    words = [*few, "budget=6", "search=random", f"evaluation.store={path}"]
    low = searched(*words, "pool.dtype=bfloat16")
    assert low.summary["failed"] == 0 and low.summary["evaluations"] == 6
    full = build.build_problem(api.settings(*FEW_ITEMS, *words), path, NullLogger())
    conditions = [p.evaluator.condition("search") for p in (low.problem, full)]
    assert [c.dtype for c in conditions] == ["bfloat16", "float32"]
    keys = [point.key for point in low.problem.trace[-3:]]
    ours = full.evaluator.evaluate([low.problem.candidate(key) for key in keys])
    assert full.evaluator.totals.computed == 3 and full.evaluator.totals.hits == 0
    theirs = [low.problem.evaluation(key) for key in keys]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.key == yours.key and mine.nll != yours.nll
        assert mine.nll == pytest.approx(yours.nll, rel=0.1, abs=0.05)

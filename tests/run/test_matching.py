"""`pool.match=units`: searches whose experts were put into the order of the base's units."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hm3rl import api
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.run.build import check_settings
from tests.commands import assert_refused, call
from tests.matching.planted import write_planted
from tests.small_search import few_items


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    return write_planted("math", tmp_path / "planted")


def test_a_search_merges_matched_experts(planted: Path, tmp_path: Path):
    words = ("search=random", "budget=5", "pool.match=units", f"pool.experts.math={planted}")
    result = api.search(*few_items(*words, f"output={tmp_path / 'run'}"))
    run = api.open_run(result.folder.path)
    pool = run.problem.pool  # opened again, so matched again, and its hashes are those of the run
    assert pool.matched == ("math",)
    wanted = ModelPool.load("zoo:base", {"math": "zoo:math"}).tensors("math")
    assert all(torch.equal(pool.tensors("math")[name], wanted[name]) for name in wanted)
    row = next(row for row in run.front_rows() if "math" in str(run.candidate(row["key"])))
    report = api.export(run, run.candidate(row["key"]), tmp_path / "model")
    assert "the units of math" in report.mergekit
    recipe = tmp_path / "model" / "recipe.yaml"
    assert_refused(call("merge", recipe, tmp_path / "again"), "units of math", "hm3rl export")


def test_check_says_what_was_matched(planted: Path):
    chosen = api.settings(f"pool.experts.math={planted}", "pool.match=units", "pool.match_gamma=1")
    facts = api.check(chosen)
    assert any("expert 'math': its units" in str(fact) for fact in facts.values())


def test_bad_settings_are_named():
    for override in ("pool.match=neurons", "pool.match_gamma=1.5"):
        with pytest.raises(InputError, match=override.partition("=")[2]):
            check_settings(compose_settings([override]))

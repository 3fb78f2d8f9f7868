"""The model that merging is held against: how long it is trained, and its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.pools import multitask, results, run
from experiments.pools.pools import ZOO, Pool, pools
from experiments.pools.results import HELD_OUT, SEARCH, Key

FORGETFUL = Pool("X", "A", ("sets", "walking_alone"))


@pytest.mark.parametrize(("pool", "steps"), [(FORGETFUL, 800), (pools()[ZOO], 1200)])
def test_it_has_the_steps_of_all_experts_and_equal_parts_of_their_text(
    pool: Pool, steps: int
) -> None:
    assert multitask.schedule(pool).steps == steps
    text = multitask.text(pool)
    assert sum(text.values()) == pytest.approx(1.0)
    own = [text[task, "full"] for task in pool.tasks]
    assert own == pytest.approx([own[0]] * len(own), rel=0.02)
    # 65 % of an expert's text are its own task; what is left is the base's.
    assert sum(own) > 0.65


def test_it_is_trained_once_and_has_the_same_row_at_every_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = replace(multitask.schedule(pools()[ZOO]), steps=4, rows=6, pool=50)
    monkeypatch.setattr(multitask, "schedule", lambda pool: tiny)
    words = ["--pools", ZOO, "--methods", "multitask", "--items", "24", "24"]
    words += ["--root", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    run.main([*words, "--budgets", "40", "100"])
    have = results.known(tmp_path / "results")
    keys = [Key(ZOO, "multitask", 0, budget) for budget in (40, 100)]
    assert set(have) == {(key, split) for key in keys for split in (SEARCH, HELD_OUT)}
    found = results.fronts(ZOO, tmp_path / "results")
    one, other = (found[key] for key in keys)
    assert one.experts == ("translation", "math", "code") and len(one.models) == 1
    assert one.held_out == other.held_out and one.search.shape == (4, 3)
    folder = tmp_path / "runs" / ZOO / "multitask" / "seed0"
    weights = folder / "multitask" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (tmp_path / "results" / "methods.csv").unlink()
    run.main([*words, "--budgets", "40"])
    assert weights.stat().st_mtime_ns == before
    assert results.known(tmp_path / "results")[keys[0], HELD_OUT] == have[keys[0], HELD_OUT]

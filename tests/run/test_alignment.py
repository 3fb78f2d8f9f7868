"""Aligned searches: calibrated on training items, reproducible, exportable where scalar."""

from __future__ import annotations

import pytest

from hm3rl import api
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.evaluation.requests import encode
from hm3rl.events import NullLogger
from hm3rl.paths.alignment_kind import read_scales
from hm3rl.run.build import build_problem, check_settings
from hm3rl.run.calibration import calibration_batch
from hm3rl.tasks.base import split_of
from tests.small_search import FEW_ITEMS


def test_the_batch_takes_training_items_of_all_tasks_in_turn(problem):
    tasks, tokenizer = problem.evaluator.tasks, problem.pool.tokenizer
    batch = calibration_batch(tasks, tokenizer, 7, "cpu")
    expected = {}
    for task in tasks:
        for item in task.items("train"):
            assert split_of(task.name, item.prompt) == "train"
            ids = encode(item, tokenizer)
            expected[(*ids.prompt, *ids.answer[:-1])] = task.name
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    found = [tuple(t for t, real in zip(*row, strict=True) if real) for row in rows]
    assert [expected[row] for row in found] == (3 * [task.name for task in tasks])[:7]
    assert calibration_batch(tasks, tokenizer, 7, "cpu").key == batch.key
    larger = calibration_batch(tasks, tokenizer, 12, "cpu")
    rows = zip(larger.input_ids.tolist(), larger.attention_mask.tolist(), strict=True)
    assert found == [tuple(t for t, real in zip(*row, strict=True) if real) for row in rows][:7]


def test_a_task_without_training_items_lends_prompts_of_its_search_items(problem, monkeypatch):
    task, tokenizer = problem.evaluator.tasks[1], problem.pool.tokenizer
    items = {"search": task.items("search")}
    monkeypatch.setattr(task, "items", lambda split: items.get(split, ()))
    batch = calibration_batch([task], tokenizer, 5, "cpu")
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    found = [tuple(t for t, real in zip(*row, strict=True) if real) for row in rows]
    prompts = {tuple(encode(item, tokenizer).prompt) for item in items["search"]}
    assert len(found) == 5 and set(found) <= prompts  # and no token of a reference


@pytest.mark.parametrize(
    ("override", "named"),
    [("paths.alignment=bent", "bent"), ("paths.alignment_items=0", "alignment_items=0")],
)
def test_bad_settings_are_named_before_anything_is_loaded(override, named):
    with pytest.raises(InputError, match=named):
        check_settings(compose_settings([override]))


def test_a_search_aligns_every_path_with_seams(searched):
    result = searched(
        "budget=8", "search=architecture_only", "paths.alignment=scalar", "agent.pretrain_steps=3"
    )
    run = api.open_run(result.folder.path)
    alignment = run.problem.limits.alignment
    assert alignment == f"scalar@{run.problem.members.calibration.key}"
    candidates = [run.candidate(row["key"]) for row in run.front_rows()]
    assert all(c.alignment == (alignment if c.path.stitch_points else "none") for c in candidates)
    scored = run.problem.evaluator.store.get(
        [run.problem.key(c) for c in candidates], run.problem.evaluator.condition("search")
    )
    assert len(scored) == len(candidates)
    settings = compose_settings([*FEW_ITEMS, "paths.alignment=scalar"])
    again = build_problem(settings, run.folder.store, NullLogger())
    assert again.limits.alignment == alignment


def test_scales_are_evolved_and_exported(searched, tmp_path):
    pytest.importorskip("cma")
    with pytest.raises(InputError, match=r"scale_max=1.5 with paths.alignment=scalar"):
        wrong = ["search=cmaes_dfs", "search.scale_max=1.5", "paths.alignment=scalar"]
        check_settings(compose_settings(wrong))
    result = searched(
        "budget=16", "search=cmaes_dfs", "search.levels=paths", "search.scale_max=1.5"
    )
    run = api.open_run(result.folder.path)
    candidates = map(run.candidate, run.archive.keys)
    scaled = [candidate for candidate in candidates if candidate.alignment != "none"]
    assert scaled and all(2 / 3 <= s <= 1.5 for c in scaled for s in read_scales(c.alignment))
    assert len({candidate.alignment for candidate in scaled}) > 1
    report = api.export(run, scaled[0], tmp_path / "model")
    assert report.check.logit_error <= 1e-5
    api.merge(tmp_path / "model" / "recipe.yaml", tmp_path / "again")
    one, other = (tmp_path / name / "model.safetensors" for name in ("model", "again"))
    assert one.read_bytes() == other.read_bytes()

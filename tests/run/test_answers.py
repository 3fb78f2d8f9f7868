"""Answers that a run keeps: those the scores were made of, few, and readable."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.files import RunFolder
from hm3rl.run.answers import CHARACTERS, ITEMS, answers_of, collect
from hm3rl.run.conclusion import sources_of
from hm3rl.run.finished import FinishedRun


def test_kept_scores_are_those_that_the_store_has_of_these_items(finished: FinishedRun):
    kept = finished.folder.read_answers()
    assert {"translation", "math", "code", "base"} < set(kept["answers"])
    row = finished.front_rows()[0]
    evaluation = finished.evaluation(row["key"])
    for task in finished.objectives:
        scores = [score for _, score in kept["answers"][row["name"]][task]]
        assert scores == pytest.approx(list(evaluation.per_item[task][:ITEMS]))
    # The expert's own task: its answer is the reference, in words.
    found = answers_of(finished.folder, "math", ["math"])
    assert list(found) == ["math"] and len(found["math"]) == ITEMS
    right = [one for one in found["math"] if one["score"] == 1]
    assert right and all(one["answer"].strip() == one["reference"].strip() for one in right)
    items = finished.problem.evaluator.tasks[1].items("search")
    assert [one["prompt"] for one in found["math"]] == [item.prompt for item in items[:ITEMS]]


def test_long_texts_are_cut_and_wrong_answers_kept(finished: FinishedRun, monkeypatch):
    monkeypatch.setattr("hm3rl.run.answers.CHARACTERS", 5)
    problem = finished.problem
    kept = collect(problem, {"base": sources_of(problem)["base"]}, {})
    texts = [text for said in kept["answers"]["base"].values() for text, _ in said]
    assert CHARACTERS > 5 and max(map(len, texts)) == 7 and any(t.endswith(" …") for t in texts)
    assert any(score == 0 and text.strip() for text, score in kept["answers"]["base"]["math"])


def test_what_is_not_kept_is_named_with_what_is(finished: FinishedRun, tmp_path: Path):
    with pytest.raises(InputError, match="keeps no answers of 'M99'") as refused:
        answers_of(finished.folder, "M99")
    assert "translation, math, code, base, M00" in refused.value.remedy
    with pytest.raises(InputError, match="no task 'poems'"):
        answers_of(finished.folder, "math", ["poems"])
    shutil.copytree(finished.folder.path, tmp_path / "older")
    older = RunFolder(tmp_path / "older")
    older.answers.unlink()
    with pytest.raises(InputError, match=r"answers\.json is missing") as refused:
        answers_of(older, "math")
    assert "resume=" in refused.value.remedy
    assert api.open_run(older.path).front_rows()  # and the rest of it is read all the same

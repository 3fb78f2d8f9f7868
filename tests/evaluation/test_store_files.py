"""What lies in a store, merging stores, and exporting them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.evaluation.store_files import export_store, find_store, merge_stores, overview
from tests.evaluation.test_store import HERE, evaluation, same
from tests.evaluation.test_store_schema import VERSION_1, version


def fill(path: Path, *keys: str, secondary: bool = False) -> EvaluationStore:
    store = EvaluationStore(path)
    for key in keys:
        store.put(evaluation(key, secondary=secondary), {"path": f"path of {key}"}, HERE)
    return store


def test_the_overview_counts_by_condition(tmp_path: Path) -> None:
    with fill(tmp_path / "s", "a", "b") as store:
        store.put(evaluation("c", 0.5), {"path": "path of c"}, HERE)
        for key in "de":
            failed = Evaluation.failure(key, "search", ("one",), "Traceback:\nNo luck", {})
            store.put(failed, {}, HERE)
        store.put(evaluation("a"), {}, HERE._replace(split="test"))
        search, test = overview(store)
    assert (search.condition, search.count, test.count) == (HERE, 5, 1)
    assert search.errors == {"No luck": 2} and not test.errors
    assert search.best["one"][2] == "path of c"
    assert search.best["one"][:2] == (
        evaluation("c", 0.5).scores[0],
        evaluation("c", 0.5).standard_errors[0],
    )


def test_merging_adds_what_is_new_and_leaves_the_others_alone(tmp_path: Path) -> None:
    others = [tmp_path / "one", tmp_path / "two"]
    fill(others[0], "b", "c").close()
    fill(others[1], "a", "d", secondary=True).close()
    before = [path.read_bytes() for path in others]
    with fill(tmp_path / "s", "a", "b") as store:
        assert merge_stores(store, others) == (2, 0)
        found = store.get("abcd", HERE)
        assert same(found["c"], evaluation("c")) and same(found["b"], evaluation("b"))
        assert same(found["a"], evaluation("a", secondary=True))  # it had none of its own
        assert store.candidate("d") == {"path": "path of d"}
        assert merge_stores(store, others) == (0, 0)
        with pytest.raises(InputError, match="is the store itself"):
            merge_stores(store, [tmp_path / "s"])
    assert [path.read_bytes() for path in others] == before


def test_an_old_store_is_merged_without_being_migrated(tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copy(VERSION_1, old)
    with EvaluationStore(tmp_path / "new") as store:
        assert merge_stores(store, [old]) == (5, 0)
        assert sum(section.errors.total() for section in overview(store)) == 1
    assert version(old) == 1


def test_reading_only_changes_nothing_and_refuses_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        EvaluationStore(tmp_path / "missing", read_only=True)
    assert not (tmp_path / "missing").exists()
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match="it is empty"):
        EvaluationStore(tmp_path / "empty", read_only=True)


def test_a_reader_sees_what_a_writer_commits_meanwhile(tmp_path: Path) -> None:
    with fill(tmp_path / "s", "a") as store:
        with EvaluationStore(tmp_path / "s", read_only=True) as reader:
            assert len(reader) == 1
            store.put(evaluation("b"), {}, HERE)
            assert "b" in reader.get(["b"], HERE)


def test_a_table_and_lines_hold_the_same(tmp_path: Path) -> None:
    with fill(tmp_path / "s", "a", secondary=True) as store:
        store.put(Evaluation.failure("x", "search", ("one",), "No luck", {"m": 1.0}), {}, HERE)
        assert export_store(store, tmp_path / "deep" / "out.csv") == 2
        assert export_store(store, tmp_path / "out.jsonl") == 2
        with pytest.raises(InputError, match="cannot export"):
            export_store(store, tmp_path / "out.xlsx")
        stored = store.get(["a"], HERE)["a"]
    with (tmp_path / "deep" / "out.csv").open() as stream:
        first, second = csv.DictReader(stream)
    line, failed = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert float(first["scores_one"]) == line["scores"]["one"] == stored.scores[0]
    assert float(first["secondary_one_chrf"]) == line["secondary"]["one"]["chrf"] == 0.25
    assert first["path"] == line["path"] == line["candidate"]["path"] == "path of a"
    assert line["per_item"]["two"] == stored.per_item["two"].tolist()
    assert line["items"]["two"] == [0, 1, 2, 3, 4]
    assert (first["status"], second["status"], failed["error"]) == ("ok", "failed", "No luck")
    assert second["scores_one"] == "" and float(second["seconds"]) == 1.0


def test_a_run_folder_stands_for_its_store(tmp_path: Path) -> None:
    fill(tmp_path / "evaluations.sqlite").close()
    assert find_store(tmp_path) == find_store(tmp_path / "evaluations.sqlite")
    with pytest.raises(InputError, match="no store of evaluations at"):
        find_store(tmp_path / "nothing")

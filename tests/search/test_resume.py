"""A killed search, resumed, ends as if nobody had killed it."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.evaluation.store import EvaluationStore
from tests.small_search import FEW_ITEMS

WORDS = [*FEW_ITEMS, "budget=24", "seed=5", "threads=1"]


def decisions(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "evaluations.csv").open() as stream:
        rows = csv.DictReader(stream)
        return [(r["charged"], r["phase"], r["key"], r["hypervolume"]) for r in rows]


def test_sigkill_loses_no_committed_evaluation_and_changes_nothing(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    api.search(*WORDS, f"output={whole}")
    store = killed / "evaluations.sqlite"
    command = [sys.executable, "-m", "hm3rl.cli", "search", *WORDS, f"output={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    committed = 0
    while committed < 12 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        if store.exists() and (killed / "run.log").exists():
            with EvaluationStore(store) as reader:
                committed = len(reader)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with EvaluationStore(store) as reader:
        before = {evaluation.key for _, evaluation in reader.evaluations()}
    assert 12 <= len(before) < 4 + 24
    api.search(f"resume={killed}")
    assert decisions(killed) == decisions(whole)
    assert (killed / "front.csv").read_text() == (whole / "front.csv").read_text()
    with (killed / "evaluations.csv").open() as stream:
        cached = {row["key"] for row in csv.DictReader(stream) if row["cached"] == "1"}
    assert before <= cached  # not one of them ran again


def test_a_finished_run_is_not_overwritten(searched):
    folder = searched("budget=20").folder.path
    with pytest.raises(InputError, match="holds a run already"):
        api.search(*FEW_ITEMS, f"output={folder}")


def test_a_warm_store_saves_time_and_never_budget(searched, tmp_path: Path):
    first = searched("budget=20")
    again = api.search(
        *FEW_ITEMS, "budget=20", f"evaluation.store={first.folder.store}", f"output={tmp_path}/w"
    )
    assert again.problem.charged == 20
    assert again.problem.evaluator.totals.computed == 0

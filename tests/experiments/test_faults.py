"""The instruments of the fault experiment see what they are to see."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks.faults import (
    committed,
    computed_again,
    end_ray,
    lost,
    processes_below,
    same,
    still_there,
    workers_of,
)
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore

HERE = Condition("suite", "search", "float32", "torch-cpu")
COLUMNS = "evaluations,phase,key,math,seconds,cached,failed,path,fidelity"


def store(folder: Path, *keys: str) -> None:
    folder.mkdir(exist_ok=True)
    with EvaluationStore(folder / "evaluations.sqlite") as opened:
        for key in keys:
            scores = {"math": np.array([0.0, 1.0])}
            opened.put(
                Evaluation.of_items(key, "search", scores, scores, None, {"model": 1.0}), {}, HERE
            )


def write(folder: Path, *rows: str, front: str = "front") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "evaluations.csv").write_text("\n".join((COLUMNS, *rows)) + "\n")
    (folder / "front.csv").write_text(front)
    return folder


def test_a_lost_and_a_replaced_evaluation_are_seen(tmp_path: Path) -> None:
    assert committed(tmp_path / "nowhere") == {}
    store(tmp_path / "run", "a", "b")
    before = committed(tmp_path / "run")
    assert [key for key, *_ in before] == ["a", "b"]
    store(tmp_path / "run", "c")
    assert lost(tmp_path / "run", before) == 0
    store(tmp_path / "other", "c", "a")
    assert lost(tmp_path / "other", before) == 2


def test_what_was_computed_although_it_was_on_disk_is_seen(tmp_path: Path) -> None:
    store(tmp_path / "run", "a", "b")
    before = committed(tmp_path / "run")
    write(tmp_path / "run", "1,p,a,0.5,0.1,1,0,x,full", "2,p,b,0.5,0.1,0,0,x,full")
    assert computed_again(tmp_path / "run", before, started=0.0) == 1
    later = time.time() + 60  # then the table is an older life's
    assert computed_again(tmp_path / "run", before, started=later) == 0
    torn = tmp_path / "run" / "evaluations.csv"
    torn.write_text(torn.read_text() + "3,p,a")
    assert computed_again(tmp_path / "run", before, started=0.0) == 1


def test_times_do_not_tell_runs_apart_and_scores_do(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", "1,p,a,0.5,0.1,0,0,x,full")
    later = write(tmp_path / "later", "1,p,a,0.5,0.9,1,0,x,full")
    wrong = write(tmp_path / "wrong", "1,p,a,0.6,0.1,0,0,x,full", front="other")
    assert same(whole, later) == {"same_evaluations": True, "same_front": True}
    assert same(whole, wrong) == {"same_evaluations": False, "same_front": False}


def test_only_workers_below_the_driver_are_found() -> None:
    sleep = "import time; time.sleep(60)"
    child = [sys.executable, "-c", sleep]
    named = ["ray::ScoringWorker.score", "-c", sleep]
    worker = subprocess.Popen(named, executable=sys.executable)
    plain = subprocess.Popen(child)
    try:
        assert workers_of(os.getpid()) == [worker.pid]
        assert workers_of(plain.pid) == []
    finally:
        for process in (worker, plain):
            process.kill()
            process.wait()


def test_a_process_that_has_not_ended_is_seen() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert child.pid in processes_below(os.getpid())
    assert still_there([child.pid], 0.0) == 1
    child.kill()
    assert still_there([child.pid], 5.0) == 0  # although nobody has asked how it ended
    child.wait()
    assert still_there([child.pid], 0.0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raylet", "sigterm"])
def test_a_search_whose_ray_ends_says_so_and_goes_on(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    result = end_ray(kind, 1, tmp_path, random.Random(0))
    assert result["ended_well"], result
    assert result["lost"] == result["repeated"] == 0
    assert result["same_evaluations"] and result["same_front"]

"""Evaluations survive their process, and several processes share one store."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.schema import SCHEMA_VERSION
from hm3rl.evaluation.store import Condition, EvaluationStore

HERE = Condition("suite", "search", "float32", "torch-cpu")


def evaluation(key: str, shift: float = 0.0, secondary: bool = False) -> Evaluation:
    rng = np.random.default_rng(abs(hash(key)) % 1000)
    items = {task: rng.random(5) * 0.5 + shift for task in ("one", "two")}
    nll = {task: rng.random(5) * 9 for task in items}
    further = {"one": {"chrf": 0.25}, "two": {}} if secondary else None
    return Evaluation.of_items(key, "search", items, nll, further, {"model": 0.125})


def same(a: Evaluation, b: Evaluation) -> bool:
    arrays = all(
        np.array_equal(a.per_item[t], b.per_item[t])
        and np.array_equal(a.per_item_nll[t], b.per_item_nll[t])
        for t in a.tasks
    )
    plain = ("key", "split", "tasks", "scores", "standard_errors", "nll", "secondary", "seconds")
    return arrays and all(getattr(a, name) == getattr(b, name) for name in plain)


def test_what_is_put_in_comes_out_bit_for_bit(tmp_path: Path) -> None:
    first, second = evaluation("k1"), evaluation("k2", secondary=True)
    with EvaluationStore(tmp_path / "deep" / "store.sqlite") as store:
        store.put(first, {"path": "one"}, HERE)
        store.put(second, {"path": "two"}, HERE)
    with EvaluationStore(tmp_path / "deep" / "store.sqlite") as store:
        found = store.get(["k2", "k1", "unknown"], HERE)
        assert found.keys() == {"k1", "k2"}
        assert same(found["k1"], first) and same(found["k2"], second)
        assert store.candidate("k1") == {"path": "one"}
        assert store.candidate("unknown") is None
        assert [(c, e.key) for c, e in store.evaluations()] == [(HERE, "k1"), (HERE, "k2")]


def test_failures_are_kept_with_their_traceback(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "s") as store:
        store.put(Evaluation.failure("k", "search", ("one",), "Trace", {"other": 1.0}), {}, HERE)
        found = store.get(["k"], HERE)["k"]
    assert (found.status, found.error, found.scores) == ("failed", "Trace", ())


@pytest.mark.parametrize(
    "other",
    [
        HERE._replace(suite="newer"),
        HERE._replace(split="test"),
        HERE._replace(dtype="bfloat16"),
        HERE._replace(backend="torch-cuda"),
        HERE._replace(fidelity="proxy"),
    ],
)
def test_conditions_are_kept_apart(tmp_path: Path, other: Condition) -> None:
    with EvaluationStore(tmp_path / "s") as store:
        store.put(evaluation("k"), {}, HERE)
        assert store.get(["k"], other) == {}
        store.put(evaluation("k", 0.25), {}, other)
        assert len(store) == 2
        assert store.get(["k"], HERE)["k"].scores != store.get(["k"], other)["k"].scores


def test_the_first_evaluation_stays_unless_secondary_metrics_are_new(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "s") as store:
        store.put(evaluation("k"), {}, HERE)
        store.put(evaluation("k", 0.25), {}, HERE)
        assert same(store.get(["k"], HERE)["k"], evaluation("k"))
        store.put(evaluation("k", 0.25, secondary=True), {}, HERE)
        assert store.get(["k"], HERE)["k"].secondary == {"one": {"chrf": 0.25}, "two": {}}
        store.put(evaluation("k"), {}, HERE)
        assert same(store.get(["k"], HERE)["k"], evaluation("k", 0.25, secondary=True))
        assert len(store) == 1


def test_many_keys_at_once(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(1200)]
    with EvaluationStore(tmp_path / "s") as store:
        for key in keys[:3] + keys[-3:]:
            store.put(evaluation(key), {}, HERE)
        assert set(store.get(keys, HERE)) == {*keys[:3], *keys[-3:]}


WRITER = """
import sys
sys.path.insert(0, {root!r})
from hm3rl.evaluation.store import EvaluationStore
from tests.evaluation.test_store import HERE, evaluation
with EvaluationStore(sys.argv[1]) as store:
    for number in range(int(sys.argv[3])):
        key = f"{{sys.argv[2]}}{{number}}"
        store.put(evaluation("fixed", number / 10**6), {{}}, HERE)
        store.put(evaluation(key), {{"path": key}}, HERE)
        print(key, flush=True)
"""


def writer(path: Path, prefix: str, count: int) -> subprocess.Popen[str]:
    script = WRITER.format(root=str(Path(__file__).parents[2]))
    command = [sys.executable, "-c", script, str(path), prefix, str(count)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONHASHSEED": "0"}
    )


def test_a_killed_writer_loses_nothing_it_had_committed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with writer(path, "a", 10**6) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
    with EvaluationStore(path) as store:
        found = store.get(said, HERE)
        # The last line may have been cut off in the pipe.
        assert set(said[:-1]) <= found.keys()
        assert all(len(e.per_item["two"]) == 5 for e in found.values())
        store.put(evaluation("after"), {}, HERE)
        assert "after" in store.get(["after"], HERE)


def test_two_writers_and_a_reader_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with writer(path, "a", 60) as one, writer(path, "b", 60) as two:
        with EvaluationStore(path) as reader:
            seen = 0
            while one.poll() is None or two.poll() is None:
                now = len(reader)
                assert now >= seen
                seen = now
        assert one.wait() == two.wait() == 0
        assert one.stdout is not None and two.stdout is not None
    with EvaluationStore(path) as store:
        keys = [f"{p}{n}" for p in "ab" for n in range(60)]
        assert len(store.get(keys, HERE)) == 120
        assert len(store) == 121


def test_other_versions_and_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is no database, and it is long enough to be sure of that" * 20)
    with pytest.raises(InputError, match="cannot be used as a store"):
        EvaluationStore(text)
    foreign = tmp_path / "foreign"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(InputError, match="no store of evaluations"):
        EvaluationStore(foreign)
    newer = tmp_path / "newer"
    EvaluationStore(newer).close()
    with sqlite3.connect(newer) as other:
        other.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(InputError, match=f"version {SCHEMA_VERSION + 1}") as caught:
        EvaluationStore(newer)
    assert caught.value.remedy

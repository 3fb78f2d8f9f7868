"""Evaluations survive their process, and several processes share one store."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from hm3rl.errors import InputError, IntegrityError, MachineError
from hm3rl.evaluation import store as module
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.schema import SCHEMA_VERSION
from hm3rl.evaluation.store import Condition, EvaluationStore
from hm3rl.evaluation.store_files import merge_stores

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
    newer = tmp_path / "newer"
    EvaluationStore(newer).close()
    with sqlite3.connect(newer) as other:
        other.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(InputError, match=f"version {SCHEMA_VERSION + 1}") as caught:
        EvaluationStore(newer)
    assert caught.value.remedy


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as made:
        for statement in statements:
            made.execute(statement)
        made.commit()
    return path


TABLE = "CREATE TABLE evaluations (id INTEGER PRIMARY KEY, key TEXT)"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"x"),
        lambda path: path.write_bytes(b"SQLite format 3\0 and nothing more"),
        lambda path: path.write_bytes(b"no database at all " * 300),
        lambda path: database(path, "CREATE TABLE t (x)"),
        lambda path: database(path, TABLE, "PRAGMA user_version=2"),
        lambda path: database(path, TABLE, "PRAGMA journal_mode=WAL", "PRAGMA user_version=1"),
        lambda path: database(path, "PRAGMA application_id=77"),
    ],
    ids=["a byte", "a header", "text", "a database", "with a version", "in WAL", "another owner"],
)
def test_nothing_foreign_is_ever_written(
    tmp_path: Path, make: Callable[[Path], object], read_only: bool
) -> None:
    foreign = tmp_path / "foreign"
    make(foreign)
    before = (foreign.read_bytes(), foreign.stat().st_mtime_ns, sorted(tmp_path.iterdir()))
    with pytest.raises(InputError, match="store of evaluations") as caught:
        EvaluationStore(foreign, read_only=read_only)
    assert caught.value.remedy == "name another file"
    after = (foreign.read_bytes(), foreign.stat().st_mtime_ns, sorted(tmp_path.iterdir()))
    assert after == before


def test_a_foreign_database_that_lies_in_its_log_yet_is_not_written(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    with closing(sqlite3.connect(foreign)) as owner:
        owner.execute("PRAGMA journal_mode=WAL")
        owner.execute("CREATE TABLE t (x)")
        owner.commit()
        log = foreign.with_name("foreign-wal")
        before = (foreign.read_bytes(), log.read_bytes(), sorted(tmp_path.iterdir()))
        with pytest.raises(InputError, match="no store of evaluations"):
            EvaluationStore(foreign)
        assert (foreign.read_bytes(), log.read_bytes(), sorted(tmp_path.iterdir())) == before


def test_a_store_that_lies_in_its_log_yet_is_one(tmp_path: Path) -> None:
    with EvaluationStore(tmp_path / "s") as store:
        store.put(evaluation("k"), {}, HERE)
        for name in ("s", "s-wal"):  # as a process leaves them that was killed
            shutil.copy(tmp_path / name, tmp_path / name.replace("s", "killed", 1))
    with EvaluationStore(tmp_path / "killed") as killed:
        assert len(killed) == 1
    (tmp_path / "empty").touch()
    EvaluationStore(tmp_path / "empty").close()


def test_a_store_that_somebody_holds_locked_is_not_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.2)
    with EvaluationStore(tmp_path / "s") as store:
        store.put(evaluation("k"), {}, HERE)
        with closing(sqlite3.connect(tmp_path / "s", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(MachineError, match="locked by another program") as caught:
                store.put(evaluation("l"), {}, HERE)
            assert "remove" not in str(caught.value)
            with pytest.raises(MachineError, match="locked by another program") as caught:
                EvaluationStore(tmp_path / "s")
            assert "remove" not in str(caught.value)
        store.put(evaluation("l"), {}, HERE)
        assert len(store) == 2


def test_a_full_disk_keeps_what_was_stored_and_the_store_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with EvaluationStore(tmp_path / "s") as store:
        store.put(evaluation("first"), {}, HERE)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")
        large = {"path": "x" * 50_000}
        with pytest.raises(MachineError, match=r"full.*\n.*make room; every evaluation .* is kept"):
            store.put(evaluation("second"), large, HERE)
        store._db.execute("PRAGMA max_page_count=1000000")
        store.put(evaluation("second"), large, HERE)
        assert store.get(["first", "second"], HERE).keys() == {"first", "second"}


def damaged(path: Path, keys: list[str]) -> Path:
    """A store of which a page in the middle of the evaluations is overwritten."""
    with EvaluationStore(path) as store:
        for key in keys:
            store.put(evaluation(key), {"path": key}, HERE)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = 4096
    content = bytearray(path.read_bytes())
    (place,) = (
        number
        for number in range(len(content) // size)
        if b"k60" in (page := content[number * size : number * size + size])
        and b"chrf" not in page
        and b"torch-cpu" in page
        and b"model" in page
    )
    content[place * size : place * size + size] = b"\xff" * size
    path.write_bytes(content)
    return path


def test_a_damaged_store_is_said_to_be_and_what_can_be_read_is_copied(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(120)]
    path = damaged(tmp_path / "s", keys)
    with EvaluationStore(path) as store:
        with pytest.raises(IntegrityError, match=r"is damaged .*\n.*store NEW.sqlite --merge"):
            list(store.evaluations())
    with EvaluationStore(tmp_path / "new") as new:
        merged = merge_stores(new, [path])
        assert merged.new + merged.unreadable == 120 and 80 < merged.new < 120
        for key, found in new.get(keys, HERE).items():
            assert same(found, evaluation(key))


READ_ONLY = """
import os
import sys
sys.path.insert(0, {root!r})
from hm3rl.evaluation.store import EvaluationStore
from tests.evaluation.test_store import HERE, evaluation
path = sys.argv[1]
added = evaluation("new")
if os.geteuid() == 0:  # whom no folder is read-only to
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    open(path + "-try", "w")
except OSError:
    pass
else:
    sys.exit("the folder can be written")
with EvaluationStore(path, read_only=True) as store:
    assert len(store) == 1
with EvaluationStore.of_finished_run(path) as store:
    assert "k" in store.get(["k"], HERE)
    assert store.claim(["new"], HERE) == ["new"]
    store.put(added, {{}}, HERE)
    assert len(store) == 2
with EvaluationStore(path, read_only=True) as store:
    assert len(store) == 1
"""


@pytest.mark.parametrize("left", ["clean", "killed"])
def test_a_store_in_a_read_only_folder_is_read(left: str) -> None:
    # Not in pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        with EvaluationStore(folder / "s") as store:
            store.put(evaluation("k"), {}, HERE)
            if left == "killed":
                for suffix in ("", "-wal"):
                    shutil.copy(folder / f"s{suffix}", Path(name) / f"s{suffix}")
        if left == "killed":
            shutil.rmtree(folder)
            folder.mkdir()
            for suffix in ("", "-wal"):
                shutil.move(Path(name) / f"s{suffix}", folder / f"s{suffix}")
        before = {path: path.read_bytes() for path in folder.iterdir()}
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        Path(name).chmod(0o755)
        script = READ_ONLY.format(root=str(Path(__file__).parents[2]))
        command = [sys.executable, "-c", script, str(folder / "s")]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        folder.chmod(0o755)

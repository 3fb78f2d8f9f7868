"""Files of older versions are brought up to date without losing anything."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np

from hm3rl.evaluation.schema import SCHEMA_VERSION
from hm3rl.evaluation.store import Condition, EvaluationStore

VERSION_1 = Path(__file__).parent / "data" / "store_version_1.sqlite"
"""Written by the code of version 1: three evaluations, a failure, one on the test split."""
THERE = Condition("0123456789abcdef", "search", "float32", "torch-cpu")


def version(path: Path) -> int:
    database = sqlite3.connect(path)
    found = database.execute("PRAGMA user_version").fetchone()[0]
    database.close()
    return int(found)


def test_a_store_of_version_1_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    shutil.copy(VERSION_1, path)
    assert version(path) == 1
    with EvaluationStore(path) as store:
        assert version(path) == SCHEMA_VERSION
        assert len(store) == 5
        found = store.get(["key0", "key1", "key2", "broken"], THERE)
        assert found["key1"].secondary == {"one": {"chrf": 0.5}, "two": {}}
        assert found["key2"].per_item["one"].tolist() == [0.0, 1.0, 0.5, 0.5]
        assert found["key2"].per_item_nll["two"].tolist() == [1.125, 0.375, 0.375]
        assert found["key2"].scores == (0.5, (1.0 + 0.25 + 0.25) / 3)
        assert found["broken"].error == "Traceback: it broke"
        assert found["broken"].cause is None and not found["broken"].settled
        assert store.candidate("key1") == {"path": "p1"}
        assert np.array_equal(store.items(["key0"], THERE)["key0"]["one"].items, range(4))
        assert store.claim(["new"], THERE) == ["new"]
        assert "key0" in store.get(["key0"], THERE._replace(split="test"))


def test_a_migrated_store_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    shutil.copy(VERSION_1, tmp_path / "old")
    tables = []
    for name in ("old", "new"):
        EvaluationStore(tmp_path / name).close()
        database = sqlite3.connect(tmp_path / name)
        rows = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name")
        tables.append(rows.fetchall())
        database.close()
    assert tables[0] == tables[1]


def test_a_process_of_version_1_goes_on_with_a_migrated_file(tmp_path: Path) -> None:
    path = tmp_path / "old"
    shutil.copy(VERSION_1, path)
    old = sqlite3.connect(path)  # has the file open, and knows the first version's tables only
    assert old.execute("SELECT COUNT(*) FROM evaluations").fetchone() == (5,)
    with EvaluationStore(path) as store:
        old.execute(
            "INSERT INTO evaluations (key, suite, split, dtype, backend, fidelity, status, error, "
            "tasks, scores, standard_errors, nll, secondary, seconds) VALUES ('late', ?, ?, ?, ?, "
            "?, 'failed', 'Trace', '[]', '[]', '[]', '[]', NULL, '{}')",
            THERE,
        )
        old.commit()
        assert store.get(["late"], THERE)["late"].error == "Trace"
    old.close()

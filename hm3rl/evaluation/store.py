"""Stored evaluations: one SQLite file that several processes may read and write at once.

An evaluation is committed before anybody gets to see it, so a process killed at any moment loses at
most the one it was working on. The file is in WAL mode with `synchronous=NORMAL`: that survives the
death of the process; a power cut can undo the last commits, which a resumed run then repeats.

Scores per item lie in rows of their own, together with the numbers of the items they belong to, so
that an evaluation of some items can be completed later.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hm3rl.errors import InputError
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.tasks.base import Split

SCHEMA_VERSION = 1
BUSY_SECONDS = 60.0
CHUNK = 500
"""Keys looked up in one statement; SQLite allows 999 variables in its oldest builds."""

_SCHEMA = """
CREATE TABLE candidates (key TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE evaluations (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL, suite TEXT NOT NULL, split TEXT NOT NULL, dtype TEXT NOT NULL,
    backend TEXT NOT NULL, fidelity TEXT NOT NULL,
    status TEXT NOT NULL, error TEXT, tasks TEXT NOT NULL, scores TEXT NOT NULL,
    standard_errors TEXT NOT NULL, nll TEXT NOT NULL, secondary TEXT, seconds TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (key, suite, split, dtype, backend, fidelity)
);
CREATE TABLE item_scores (
    evaluation INTEGER NOT NULL REFERENCES evaluations (id) ON DELETE CASCADE,
    task TEXT NOT NULL, items BLOB NOT NULL, scores BLOB NOT NULL, nll BLOB NOT NULL,
    PRIMARY KEY (evaluation, task)
) WITHOUT ROWID;
"""


class Condition(NamedTuple):
    """Under what a candidate was scored; with the candidate's key it identifies an evaluation.

    Attributes:
        suite: Version of tasks, items and decoding (`suite_version`).
        split: Split of the items.
        dtype: Precision, such as "float32".
        backend: What computed it, such as "torch-cpu".
        fidelity: "full".
    """

    suite: str
    split: Split
    dtype: str
    backend: str
    fidelity: str = FULL


class EvaluationStore:
    """A file of evaluations.

    Args:
        path: The SQLite file; made, with its folder, if it does not exist.

    Raises:
        InputError: The file is no store, or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._create()
        except (sqlite3.DatabaseError, OSError) as error:
            raise InputError(
                f"{self.path} cannot be used as a store of evaluations ({error})",
                "name another file, or remove this one",
            ) from error

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, keys: Iterable[str], condition: Condition) -> dict[str, Evaluation]:
        """Look candidates up.

        Args:
            keys: Content hashes.
            condition: Under what they were scored.

        Returns:
            Evaluation by key, of those the store knows.
        """
        found: dict[str, Evaluation] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(
                f"SELECT * FROM evaluations WHERE key IN ({marks}) AND suite=? AND split=? AND "
                "dtype=? AND backend=? AND fidelity=?",
                (*part, *condition),
            )
            found.update((e.key, e) for e in self._read(rows))
        return found

    def put(
        self, evaluation: Evaluation, candidate: Mapping[str, Any], condition: Condition
    ) -> None:
        """Commit an evaluation.

        What another process stored meanwhile stays, unless this one adds secondary metrics.

        Args:
            evaluation: The evaluation.
            candidate: The candidate as plain data (`Candidate.to_dict`), kept to rebuild it.
            condition: Under what it was scored.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._put(evaluation, candidate, condition)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def candidate(self, key: str) -> dict[str, Any] | None:
        """Return a stored candidate as plain data, None if unknown."""
        row = self._db.execute("SELECT content FROM candidates WHERE key=?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def evaluations(self) -> Iterator[tuple[Condition, Evaluation]]:
        """Iterate over everything stored, in the order it was stored."""
        cursor = self._db.execute("SELECT id FROM evaluations ORDER BY id").fetchall()
        for (number,) in cursor:
            rows = self._db.execute("SELECT * FROM evaluations WHERE id=?", (number,))
            for row in rows.fetchall():
                yield Condition(row[2], row[3], row[4], row[5], row[6]), self._evaluation(row)

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")  # of two processes, one makes the tables
        try:
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            tables = self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if version == 0 and tables == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise InputError(
                    f"{self.path} is a store of version {version}, this program reads version "
                    f"{SCHEMA_VERSION}"
                    if version
                    else f"{self.path} is a database, but no store of evaluations",
                    "name another file",
                )
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put(
        self, evaluation: Evaluation, candidate: Mapping[str, Any], condition: Condition
    ) -> None:
        key = evaluation.key
        self._db.execute(
            "INSERT INTO candidates VALUES (?, ?) ON CONFLICT DO NOTHING",
            (key, json.dumps(candidate, sort_keys=True)),
        )
        if evaluation.secondary is not None:
            self._db.execute(
                "DELETE FROM evaluations WHERE key=? AND suite=? AND split=? AND dtype=? AND "
                "backend=? AND fidelity=? AND secondary IS NULL",
                (key, *condition),
            )
        fields = (evaluation.tasks, evaluation.scores, evaluation.standard_errors, evaluation.nll)
        secondary = None if evaluation.secondary is None else json.dumps(evaluation.secondary)
        cursor = self._db.execute(
            "INSERT INTO evaluations (key, suite, split, dtype, backend, fidelity, status, error, "
            "tasks, scores, standard_errors, nll, secondary, seconds) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                *(key, *condition, evaluation.status, evaluation.error),
                *(json.dumps(field) for field in fields),
                *(secondary, json.dumps(evaluation.seconds)),
            ),
        )
        if cursor.rowcount != 1:
            return
        for task, scores in evaluation.per_item.items():
            self._db.execute(
                "INSERT INTO item_scores VALUES (?, ?, ?, ?, ?)",
                (
                    cursor.lastrowid,
                    task,
                    np.arange(len(scores), dtype="<u4").tobytes(),
                    scores.astype("<f8").tobytes(),
                    evaluation.per_item_nll[task].astype("<f8").tobytes(),
                ),
            )

    def _read(self, rows: Iterable[Sequence[Any]]) -> list[Evaluation]:
        return [self._evaluation(row) for row in list(rows)]

    def _evaluation(self, row: Sequence[Any]) -> Evaluation:
        number, key, _, split, _, _, fidelity, status, error = row[:9]
        tasks, scores, errors, nll = (tuple(json.loads(text)) for text in row[9:13])
        items = self._db.execute(
            "SELECT task, scores, nll FROM item_scores WHERE evaluation=?", (number,)
        ).fetchall()
        by_task = {task: (np.frombuffer(a, "<f8"), np.frombuffer(b, "<f8")) for task, a, b in items}
        return Evaluation(
            key=key,
            split=split,
            tasks=tasks,
            scores=scores,
            standard_errors=errors,
            nll=nll,
            per_item={task: by_task[task][0] for task in tasks if task in by_task},
            per_item_nll={task: by_task[task][1] for task in tasks if task in by_task},
            secondary=None if row[13] is None else json.loads(row[13]),
            seconds=json.loads(row[14]),
            fidelity=fidelity,
            status=status,
            error=error,
        )

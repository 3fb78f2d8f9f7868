"""Stored evaluations: one SQLite file that several processes may read and write at once.

An evaluation is committed before anybody gets to see it, so a process killed at any moment loses at
most the one it was working on. The file is in WAL mode with `synchronous=NORMAL`: that survives the
death of the process; a power cut can undo the last commits, which a resumed run then repeats.

Scores per item lie in rows of their own, together with the numbers of the items they belong to:
`items` tells which items of a candidate are known from whatever evaluations, so that a larger
fidelity only runs the missing ones. Processes that share a file agree by `claim` on who computes
what.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hm3rl.errors import InputError
from hm3rl.evaluation.claims import Claims
from hm3rl.evaluation.fidelity import Fidelity, Measure
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.evaluation.schema import check_readable, migrate
from hm3rl.tasks.base import Split

BUSY_SECONDS = 60.0
CHUNK = 500
"""Keys looked up in one statement; SQLite allows 999 variables in its oldest builds."""


class Condition(NamedTuple):
    """Under what a candidate was scored; with the candidate's key it identifies an evaluation.

    Attributes:
        suite: Version of tasks, items and decoding (`suite_version`).
        split: Split of the items.
        dtype: Precision, such as "float32".
        backend: What computed it, such as "torch-cpu".
        fidelity: "full", or which share of the items was asked and how (`Fidelity`).
    """

    suite: str
    split: Split
    dtype: str
    backend: str
    fidelity: str = FULL

    @property
    def measure(self) -> Measure:
        """What a score per item means: scores of one measure may be put together."""
        return Fidelity.parse(self.fidelity).measure


class ItemScores(NamedTuple):
    """What is known of the items of one task; n items.

    Attributes:
        items: Their numbers in the split, ascending, shape (n,).
        scores: Shape (n,).
        nll: Negative log-likelihood per reference token, shape (n,).
    """

    items: np.ndarray
    scores: np.ndarray
    nll: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[ItemScores]) -> ItemScores:
        """Put several together; of an item that is in two, the first counts."""
        items, first = np.unique(np.concatenate([part.items for part in parts]), return_index=True)
        scores = np.concatenate([part.scores for part in parts])
        return cls(items, scores[first], np.concatenate([part.nll for part in parts])[first])

    def of(self, numbers: Sequence[int]) -> ItemScores:
        """Take some items, all of them known, numbers ascending."""
        places = np.searchsorted(self.items, numbers)
        return ItemScores(np.asarray(numbers), self.scores[places], self.nll[places])


class EvaluationStore:
    """A file of evaluations.

    Args:
        path: The SQLite file; made, with its folder, if it does not exist.
        read_only: Open what is there, also of an older version, and change nothing in it.

    Raises:
        InputError: The file is no store, or of a newer version.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        try:
            if read_only:
                name = f"{self.path.resolve().as_uri()}?mode=ro"
                self._db = sqlite3.connect(name, timeout=BUSY_SECONDS, uri=True)
                if check_readable(self._db, self.path) == 0:
                    raise sqlite3.DatabaseError("it is empty")
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute("PRAGMA foreign_keys=ON")
                migrate(self._db, self.path)
        except (sqlite3.DatabaseError, OSError) as error:
            raise InputError(
                f"{self.path} cannot be used as a store of evaluations ({error})",
                "name another file, or remove this one",
            ) from error
        self._claims = Claims(self._db, self.path)

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])

    def close(self) -> None:
        """Close the file; what was claimed and not computed is free for others."""
        self._claims.close()
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
            rows = self._db.execute(
                f"SELECT * FROM evaluations WHERE key IN ({_marks(part)}) AND suite=? "
                "AND split=? AND dtype=? AND backend=? AND fidelity=?",
                (*part, *condition),
            )
            found.update((e.key, e) for e in self._read(rows))
        return found

    def items(self, keys: Iterable[str], condition: Condition) -> dict[str, dict[str, ItemScores]]:
        """Look up which items of candidates are known, from evaluations at any fidelity.

        Args:
            keys: Content hashes.
            condition: Under what they were scored. Of its fidelity only the measure counts: what
                a proxy says of an item is no score of it, and the reverse.

        Returns:
            Item scores by key and task, of those the store knows anything of.
        """
        pieces: dict[str, dict[str, list[ItemScores]]] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            rows = self._db.execute(
                "SELECT e.key, e.fidelity, i.task, i.items, i.scores, i.nll FROM evaluations e "
                f"JOIN item_scores i ON i.evaluation = e.id WHERE e.key IN ({_marks(part)}) "
                "AND suite=? AND split=? AND dtype=? AND backend=? ORDER BY e.id",
                (*part, *condition[:4]),
            )
            for key, fidelity, task, *blobs in rows:
                if condition._replace(fidelity=fidelity).measure == condition.measure:
                    pieces.setdefault(key, {}).setdefault(task, []).append(_item_scores(*blobs))
        return {
            key: {task: ItemScores.joined(parts) for task, parts in tasks.items()}
            for key, tasks in pieces.items()
        }

    def put(
        self,
        evaluation: Evaluation,
        candidate: Mapping[str, Any],
        condition: Condition,
    ) -> None:
        """Commit an evaluation, and give up the claim on it.

        What another process stored meanwhile stays, unless this one adds secondary metrics.

        Args:
            evaluation: The evaluation.
            candidate: The candidate as plain data (`Candidate.to_dict`), kept to rebuild it.
            condition: Under what it was scored.
        """
        with self._transaction():
            self._put(evaluation, candidate, condition)
            self._claims.drop([evaluation.key], condition)
            self._claims.renew()

    def claim(self, keys: Iterable[str], condition: Condition) -> list[str]:
        """Announce that this process is about to compute evaluations.

        A claim ends with `put`, `release`, or this process, however it ends. Whoever claims looks
        once more whether the evaluation is there: another process may just have stored it.

        Args:
            keys: Candidates the store does not know yet.
            condition: Under what they will be scored.

        Returns:
            Those nobody else is computing, in order. The others will be stored by another process,
            or become free.
        """
        with self._transaction():
            return self._claims.take(keys, condition)

    def release(self, keys: Iterable[str], condition: Condition) -> None:
        """Give claims up without a result; those of other processes stay."""
        with self._transaction():
            self._claims.drop(keys, condition)

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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put(
        self,
        evaluation: Evaluation,
        candidate: Mapping[str, Any],
        condition: Condition,
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
                    evaluation.items[task].astype("<u4").tobytes(),
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
            "SELECT task, items, scores, nll FROM item_scores WHERE evaluation=?", (number,)
        ).fetchall()
        by_task = {task: _item_scores(*blobs) for task, *blobs in items}
        return Evaluation(
            key=key,
            split=split,
            tasks=tasks,
            scores=scores,
            standard_errors=errors,
            nll=nll,
            items={task: by_task[task].items for task in tasks if task in by_task},
            per_item={task: by_task[task].scores for task in tasks if task in by_task},
            per_item_nll={task: by_task[task].nll for task in tasks if task in by_task},
            secondary=None if row[13] is None else json.loads(row[13]),
            seconds=json.loads(row[14]),
            fidelity=fidelity,
            status=status,
            error=error,
        )


def _marks(keys: Sequence[str]) -> str:
    return ",".join("?" * len(keys))


def _item_scores(items: bytes, scores: bytes, nll: bytes) -> ItemScores:
    return ItemScores(
        np.frombuffer(items, "<u4").astype(np.int64),
        np.frombuffer(scores, "<f8"),
        np.frombuffer(nll, "<f8"),
    )

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
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hm3rl.errors import InputError, IntegrityError, MachineError
from hm3rl.evaluation.claims import Claims
from hm3rl.evaluation.fidelity import Fidelity, Measure
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.evaluation.schema import check_file, check_readable, migrate, unusable
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
        InputError: The file is no store, or of a newer version; nothing was written to it.

    Every method raises `MachineError` where another program holds the file locked or the disk is
    full, and `IntegrityError` where the file is damaged.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        self._closed = False
        in_memory = str(path) == ":memory:"
        there = not in_memory and check_file(self.path)
        if read_only and not there:
            why = "it is empty" if self.path.is_file() else "there is no such file"
            raise unusable(self.path, why)
        with self._troubles():
            if read_only:
                self._db = _reader(self.path)
                check_readable(self._db, self.path)
            else:
                if not in_memory:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute("PRAGMA foreign_keys=ON")
                migrate(self._db, self.path)
        self._claims = Claims(self._db, self.path)

    @classmethod
    def of_finished_run(cls, path: str | Path) -> EvaluationStore:
        """Open a store to which little is added, and nothing where its folder is read-only.

        There a copy in memory takes what is added, and goes with the process.

        Raises:
            InputError: The file is no store, or of a newer version.
        """
        path = Path(path)
        needed = [place for place in (path, path.parent) if place.exists()]
        if all(os.access(place, os.W_OK) for place in needed):
            return cls(path)
        copy = cls(":memory:")
        if not path.exists():
            return copy
        copy._db.close()
        with cls(path, read_only=True) as there, there._troubles():
            copy._db = _in_memory(there._db)
        copy._db.execute("PRAGMA foreign_keys=ON")
        migrate(copy._db, path)
        copy._claims = Claims(copy._db, copy.path)
        return copy

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._troubles():
            return int(self._db.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])

    def close(self) -> None:
        """Close the file; what was claimed and not computed is free for others."""
        self._closed = True
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
            with self._troubles():
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
            with self._troubles():
                rows = self._db.execute(
                    "SELECT e.key, e.fidelity, i.task, i.items, i.scores, i.nll FROM evaluations e "
                    f"JOIN item_scores i ON i.evaluation = e.id WHERE e.key IN ({_marks(part)}) "
                    "AND suite=? AND split=? AND dtype=? AND backend=? ORDER BY e.id",
                    (*part, *condition[:4]),
                ).fetchall()
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
        if self._closed:  # all of them are void since then
            return
        with self._transaction():
            self._claims.drop(keys, condition)

    def candidate(self, key: str) -> dict[str, Any] | None:
        """Return a stored candidate as plain data, None if unknown."""
        with self._troubles():
            row = self._db.execute("SELECT content FROM candidates WHERE key=?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def evaluations(
        self, unreadable: list[int] | None = None
    ) -> Iterator[tuple[Condition, Evaluation]]:
        """Iterate over everything stored, in the order it was stored.

        Args:
            unreadable: Takes the numbers of evaluations that a damaged file has lost, which are
                passed over then; None: the first one raises `IntegrityError`.
        """
        for number in self._numbers(unreadable):
            try:
                with self._troubles():
                    rows = self._db.execute("SELECT * FROM evaluations WHERE id=?", (number,))
                    found = [(row, self._evaluation(row)) for row in rows.fetchall()]
            except IntegrityError:
                if unreadable is None:
                    raise
                unreadable.append(number)
                continue
            for row, evaluation in found:
                yield Condition(row[2], row[3], row[4], row[5], row[6]), evaluation

    def rename(self, old: Condition, new: Condition) -> None:
        """Put evaluations under another condition, at every fidelity; those there already stay."""
        if old == new:
            return
        with self._transaction():
            self._db.execute(
                "UPDATE OR IGNORE evaluations SET suite=?, split=?, dtype=?, backend=? "
                "WHERE suite=? AND split=? AND dtype=? AND backend=?",
                (*new[:4], *old[:4]),
            )

    def drop_failed(self) -> int:
        """Forget all failures, so that they are computed again when asked for; returns how many."""
        with self._transaction():
            cursor = self._db.execute("DELETE FROM evaluations WHERE status='failed'")
            return cursor.rowcount

    def _numbers(self, unreadable: list[int] | None) -> list[int]:
        """The numbers of all evaluations; of a damaged file, all there may be."""
        found: list[int] = []
        try:
            with self._troubles():
                for (number,) in self._db.execute(
                    "SELECT id FROM evaluations NOT INDEXED ORDER BY id"
                ):
                    found.append(number)
        except IntegrityError:
            if unreadable is None:
                raise
            with self._troubles():
                last = self._db.execute("SELECT MAX(id) FROM evaluations NOT INDEXED").fetchone()[0]
            found.extend(range(found[-1] + 1 if found else 1, (last or 0) + 1))
        return found

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        """Say in plain words what SQLite and the disk say."""
        try:
            yield
        except sqlite3.Error as error:
            raise _trouble(error, self.path) from error
        except OSError as error:
            raise MachineError(
                f"the store {self.path} cannot be written ({error.strerror}); what it holds is kept"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._troubles():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # SQLite itself ends it when the disk is full
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
        # A failure whose cause nobody knows answers nothing; what is known now takes its place.
        self._db.execute(
            "DELETE FROM evaluations WHERE key=? AND suite=? AND split=? AND dtype=? AND "
            "backend=? AND fidelity=? AND status='failed' AND cause IS NULL",
            (key, *condition),
        )
        fields = (evaluation.tasks, evaluation.scores, evaluation.standard_errors, evaluation.nll)
        secondary = None if evaluation.secondary is None else json.dumps(evaluation.secondary)
        cursor = self._db.execute(
            "INSERT INTO evaluations (key, suite, split, dtype, backend, fidelity, status, error, "
            "tasks, scores, standard_errors, nll, secondary, seconds, cause) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                *(key, *condition, evaluation.status, evaluation.error),
                *(json.dumps(field) for field in fields),
                *(secondary, json.dumps(evaluation.seconds), evaluation.cause),
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
            cause=row[16] if len(row) > 16 else None,  # no such column before version 3
        )


def _reader(path: Path) -> sqlite3.Connection:
    """Connect for reading only, also where the folder is read-only."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=BUSY_SECONDS, uri=True)
    try:
        database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        return database
    except sqlite3.OperationalError as error:
        database.close()
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
    # In WAL mode SQLite needs to make files beside what it reads, and may not here.
    with tempfile.TemporaryDirectory(prefix="hm3rl-store-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        log = path.with_name(path.name + "-wal")
        if log.is_file():
            shutil.copyfile(log, copy.with_name(log.name))
        with closing(sqlite3.connect(copy)) as source:
            return _in_memory(source)


def _in_memory(source: sqlite3.Connection) -> sqlite3.Connection:
    """A copy of a database in memory."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    source.backup(copy)
    return copy


def _trouble(error: sqlite3.Error, path: Path) -> Exception:
    """What to tell somebody about an error of SQLite; never to remove a store."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return MachineError(
            f"the store {path} has been locked by another program for {BUSY_SECONDS:g} s\n"
            "  -> close that program, or wait until it is done; what the store holds is kept"
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return MachineError(
            f"the store {path} cannot be written: the disk, or your quota on it, is full, or it "
            f"has failed ({error})\n"
            "  -> make room; every evaluation stored before is kept"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return InputError(
            f"the store {path} cannot be opened for writing ({error})",
            "make file and folder writable, or name another file",
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return IntegrityError(
            f"the store {path} is damaged ({error})\n  -> keep it, and copy what can still be read "
            f"with hm3rl store NEW.sqlite --merge {path}; then put NEW.sqlite in its place"
        )
    return error


def _marks(keys: Sequence[str]) -> str:
    return ",".join("?" * len(keys))


def _item_scores(items: bytes, scores: bytes, nll: bytes) -> ItemScores:
    return ItemScores(
        np.frombuffer(items, "<u4").astype(np.int64),
        np.frombuffer(scores, "<f8"),
        np.frombuffer(nll, "<f8"),
    )

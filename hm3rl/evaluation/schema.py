"""The tables of a store, and how a file of an older version becomes one of this version.

The version stands in the file's `user_version`. A migration is one transaction that leaves every
stored score as it was, and a process of the older version that has the file open goes on working.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from hm3rl.errors import InputError

SCHEMA_VERSION = 3

_VERSION_1 = """
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

_VERSION_2 = """
CREATE TABLE claims (
    key TEXT NOT NULL, suite TEXT NOT NULL, split TEXT NOT NULL, dtype TEXT NOT NULL,
    backend TEXT NOT NULL, fidelity TEXT NOT NULL,
    owner TEXT NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (key, suite, split, dtype, backend, fidelity)
) WITHOUT ROWID;
CREATE INDEX evaluations_by_condition ON evaluations (suite, split, dtype, backend, fidelity);
"""

_VERSION_3 = """
ALTER TABLE evaluations ADD COLUMN cause TEXT;
"""

STEPS = (_VERSION_1, _VERSION_2, _VERSION_3)
"""`STEPS[n]` turns a file of version n into one of version n + 1; version 0 is an empty file."""

APPLICATION_ID = 0x484D3352
"""What the header of a store says it is, from version 3 on ("HM3R")."""

TABLES = frozenset({"candidates", "evaluations", "item_scores"})
"""Tables of every version."""

MAGIC, HEADER_BYTES = b"SQLite format 3\0", 100
ATTEMPTS = 5
"""How often a file that somebody is writing at this moment is looked at again."""


def check_file(path: Path) -> bool:
    """Refuse a file that is no store, before SQLite opens it: nothing foreign is ever written.

    Neither the file nor anything beside it is changed, made or locked.

    Args:
        path: The file; it need not exist.

    Returns:
        Whether there is a store; False: no file, or an empty one.

    Raises:
        InputError: The file is something else, cannot be read, or is of a newer version.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEADER_BYTES)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable(path, str(error.strerror)) from error
    if not head:
        return False
    if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
        raise unusable(path, "it is no SQLite database")
    if int.from_bytes(head[68:72], "big") == APPLICATION_ID:
        _check_version(int.from_bytes(head[60:64], "big"), path)
        return True
    for attempt in range(ATTEMPTS):
        try:
            with closing(_immutable(path)) as database:
                if check_readable(database, path):
                    return True
            break
        except sqlite3.DatabaseError as error:
            if attempt + 1 == ATTEMPTS:
                raise unusable(path, str(error)) from error
            time.sleep(0.1)
    # All there is may still lie in the log beside it, which only a copy can be asked about: SQLite
    # makes files beside what it opens. The file itself is empty, so the copy is small.
    log = path.with_name(path.name + "-wal")
    if not (log.is_file() and log.stat().st_size):
        return False
    with tempfile.TemporaryDirectory(prefix="hm3rl-store-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(log.name))
        with closing(sqlite3.connect(copy)) as database:
            return check_readable(database, path) > 0


def _immutable(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def unusable(path: Path, why: str) -> InputError:
    """The error of a file that is no store."""
    return InputError(
        f"{path} cannot be used as a store of evaluations ({why})", "name another file"
    )


def _check_version(version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} is a store of version {version}, this program reads versions up to "
            f"{SCHEMA_VERSION}",
            "use the newer program that wrote it, or name another file",
        )


def check_readable(database: sqlite3.Connection, path: Path) -> int:
    """Refuse a database that is no store, or of a newer version.

    Args:
        database: Connection to the file.
        path: The file's name, for messages.

    Returns:
        Its version, 0 for an empty file.

    Raises:
        InputError: The file is of a newer version, or a database of something else.
    """
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    owner = int(database.execute("PRAGMA application_id").fetchone()[0])
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if owner == APPLICATION_ID:
        _check_version(version, path)
    empty = not (owner or version or tables)
    if not empty and (owner not in (0, APPLICATION_ID) or not version or not tables >= TABLES):
        raise InputError(f"{path} is a database, but no store of evaluations", "name another file")
    _check_version(version, path)
    return version


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Make the tables of an empty file, or bring those of an older version up to date.

    Of several processes that open a file at once, one does it; the others find it done.

    Args:
        database: Connection in autocommit mode.
        path: The file's name, for messages.

    Raises:
        InputError: The file is of a newer version, or a database of something else.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        version = check_readable(database, path)
        for step in STEPS[version:]:
            for statement in filter(None, step.split(";\n")):
                database.execute(statement)
        if version < SCHEMA_VERSION:
            database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            database.execute(f"PRAGMA application_id={APPLICATION_ID}")
    except BaseException:
        if database.in_transaction:  # SQLite itself ends it when the disk is full
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")

"""The tables of a store, and how a file of an older version becomes one of this version.

The version stands in the file's `user_version`. A migration is one transaction that leaves every
stored score as it was, and a process of the older version that has the file open goes on working.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hm3rl.errors import InputError

SCHEMA_VERSION = 2

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

STEPS = (_VERSION_1, _VERSION_2)
"""`STEPS[n]` turns a file of version n into one of version n + 1; version 0 is an empty file."""


def check_readable(database: sqlite3.Connection, path: Path) -> int:
    """Refuse a file that is no store, or of a newer version.

    Args:
        database: Connection to the file.
        path: The file's name, for messages.

    Returns:
        Its version, 0 for an empty file.

    Raises:
        InputError: The file is of a newer version, or a database of something else.
    """
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    tables = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and tables:
        raise InputError(f"{path} is a database, but no store of evaluations", "name another file")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} is a store of version {version}, this program reads versions up to "
            f"{SCHEMA_VERSION}",
            "use the newer program that wrote it, or name another file",
        )
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
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")

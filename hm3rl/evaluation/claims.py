"""Who is computing what: processes that share a store do not compute the same evaluation twice.

A claim is a row that names an owner. Whether the owner lives is asked of the kernel, not of a
clock: each owner holds a lock on a small file beside the store, and that lock goes with its
process, however it ends. The claims of a dead owner are void at once, so nobody waits for it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

CLAIM_SECONDS = 3600.0
"""A claim is void although its owner lives if that has stored nothing for so long: it may be
stopped or stuck."""


class Claims:
    """The claims of one opened store.

    Every method but `close` is to be called inside an immediate transaction, which is what keeps
    processes from making and sweeping lock files at the same moment.

    Args:
        database: The store's connection.
        path: The store's file; lock files lie beside it.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._db = database
        self._path = path
        self.owner = uuid.uuid4().hex
        self._release: weakref.finalize | None = None

    def take(self, keys: Iterable[str], condition: Sequence[str]) -> list[str]:
        """Claim what no living process has claimed.

        Args:
            keys: Candidates to claim.
            condition: Under what they will be scored.

        Returns:
            Those that are claimed now, in order; what this owner had claimed before is among them.
        """
        self._make_lock_file()
        dead: dict[str, bool] = {self.owner: False}
        taken = []
        for key in keys:
            row = self._db.execute(f"SELECT owner, since FROM claims {_WHERE}", (key, *condition))
            found = row.fetchone()
            if found is not None and found[0] != self.owner:
                owner, since = found
                if owner not in dead:
                    dead[owner] = self._is_dead(owner)
                if not dead[owner] and time.time() - since < CLAIM_SECONDS:
                    continue
            self._db.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, *condition, self.owner, time.time()),
            )
            taken.append(key)
        return taken

    def renew(self) -> None:
        """Let this owner's claims hold for another `CLAIM_SECONDS`: it is at work."""
        self._db.execute("UPDATE claims SET since=? WHERE owner=?", (time.time(), self.owner))

    def drop(self, keys: Iterable[str], condition: Sequence[str]) -> None:
        """Give claims up, those of others excepted."""
        self._db.executemany(
            f"DELETE FROM claims {_WHERE} AND owner=?",
            [(key, *condition, self.owner) for key in keys],
        )

    def close(self) -> None:
        """Let go of everything: with its lock, this owner's claims are void."""
        if self._release is not None:
            self._release()

    def _lock_file(self, owner: str) -> Path:
        return self._path.with_name(f"{self._path.name}-owner-{owner}")

    def _make_lock_file(self) -> None:
        if self._release is not None or str(self._path) == ":memory:":
            return
        path = self._lock_file(self.owner)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._release = weakref.finalize(self, _let_go, handle, path, os.getpid())
        for left in self._path.parent.glob(f"{self._path.name}-owner-*"):
            self._is_dead(left.name.rpartition("-")[2])

    def _is_dead(self, owner: str) -> bool:
        """Whether an owner's process has ended; its lock file is removed then."""
        path = self._lock_file(owner)
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(handle)


_WHERE = "WHERE key=? AND suite=? AND split=? AND dtype=? AND backend=? AND fidelity=?"


def _let_go(handle: int, path: Path, process: int) -> None:
    if os.getpid() != process:  # a forked copy must not void its parent's claims
        return
    path.unlink(missing_ok=True)
    os.close(handle)

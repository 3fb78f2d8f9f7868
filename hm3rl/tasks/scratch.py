"""Scratch folders that do not outlive their process, however it ends.

A process holds a lock on its folder, which the kernel lifts when it dies. Whoever makes the next
folder removes those that nobody holds. Process numbers would not do: they are used again, and
containers that share a folder for temporary files do not share them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path


class ScratchFolder:
    """An empty folder for temporary use; nothing is expected to be written into it.

    Args:
        prefix: Its name begins with this, as do those of the folders that are cleared away.
    """

    def __init__(self, prefix: str) -> None:
        clear_abandoned(prefix)
        held = None
        while held is None:  # another process may take it for abandoned before it is locked
            self.name = tempfile.mkdtemp(prefix=prefix)
            held = _lock(self.name)
        self._held: int | None = held

    def cleanup(self) -> None:
        """Remove the folder; a second call does nothing."""
        if self._held is None:
            return
        with contextlib.suppress(FileNotFoundError):  # somebody has tidied up
            os.rmdir(self.name)
        os.close(self._held)
        self._held = None


def clear_abandoned(prefix: str) -> int:
    """Remove the empty folders of this kind whose process is gone; return how many."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        held = _lock(str(folder))
        if held is None:
            continue
        try:
            folder.rmdir()
            removed += 1
        except OSError:
            continue  # not empty, so no scratch folder of ours; leave it alone
        finally:
            os.close(held)
    return removed


def _lock(folder: str) -> int | None:
    """Open and lock a folder; None if it is another process's, another user's, or gone."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(opened), os.stat(folder))
    except OSError:  # held, or removed between opening and locking
        ours = False
    if ours:
        return opened
    os.close(opened)
    return None

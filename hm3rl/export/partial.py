"""The hidden folder in which a checkpoint is written before it has its name.

Its writer holds a lock on it, which the system lifts when the process ends, however it ends. So the
next export into the same place knows a killed one's leavings from work that is going on.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hm3rl.errors import IntegrityError


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """Give a new hidden folder beside a target, which takes the target's name at the end.

    Args:
        target: Folder to write, absolute; must not exist.

    Raises:
        IntegrityError: As it was raised inside; the folder is kept, under the hidden name that the
            message gives. After any other exception nothing is left.
    """
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    opened = os.open(partial, os.O_RDONLY)
    try:
        _lock(opened)
        yield partial
        partial.rename(target)
    except IntegrityError as error:
        kept = target.parent / f".{target.name}.failed-{os.getpid()}"
        shutil.rmtree(kept, ignore_errors=True)  # an earlier failure of this very process
        partial.rename(kept)
        raise IntegrityError(str(error).replace(str(partial), str(kept))) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(opened)


def remove_leavings(target: Path) -> None:
    """Remove what killed processes left of their exports into the same place.

    Args:
        target: The folder they were to write, absolute.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        try:
            opened = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # renamed or removed by its writer just now, or no folder
            continue
        try:
            if _lock(opened):
                shutil.rmtree(left)
        finally:
            os.close(opened)


def _lock(opened: int) -> bool:
    """Lock an open folder, if nobody else has; some file systems cannot, which is as if one had."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

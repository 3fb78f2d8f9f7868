"""The record of a passed reload check, kept in the checkpoint folder and verified before a push.

It lists every file with its size and SHA-256, so a folder that was changed, or copied in part,
after its check is told from one that is still what was checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hm3rl.errors import InputError
from hm3rl.export.reload import ReloadCheck
from hm3rl.files import write_text

RECORD_FILE = "reload_check.json"


def write_record(folder: Path, check: ReloadCheck) -> None:
    """Write the record, last of all files.

    Args:
        folder: The checkpoint folder, complete.
        check: The check, which passed.
    """
    files = {name: _fingerprint(folder / name) for name in _files(folder)}
    plain = {"passed": True, **asdict(check), "files": files}
    write_text(folder / RECORD_FILE, json.dumps(plain, indent=2) + "\n")


def verify_record(folder: Path) -> dict[str, Any]:
    """Require that a folder passed its reload check and is unchanged since, README.md excepted.

    The card may be edited by hand: it changes nothing that was checked.

    Args:
        folder: A checkpoint folder.

    Returns:
        The record.

    Raises:
        InputError: No folder, no record, or a file that is missing, new or different.
    """
    remedy = "export it again with hm3rl export or hm3rl merge, which check what they write"
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}", "give a folder that hm3rl exported")
    try:
        record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        recorded: dict[str, Any] = record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder} has no readable {RECORD_FILE}: its reload check did not pass or was not run",
            remedy,
        ) from None
    if record.get("passed") is not True:
        raise InputError(f"{folder} did not pass its reload check", remedy)
    present = set(_files(folder)) - {RECORD_FILE, "README.md"}
    for name in sorted(present ^ (recorded.keys() - {"README.md"})):
        what = "was added to" if name in present else "is missing from"
        raise InputError(f"{name} {what} {folder} after its reload check", remedy)
    for name in sorted(present):
        if _fingerprint(folder / name) != recorded[name]:
            raise InputError(f"{name} in {folder} was changed after its reload check", remedy)
    return record


def _files(folder: Path) -> list[str]:
    """List all files of a folder and of those in it, by their names relative to it."""
    found = (file for file in folder.rglob("*") if not file.is_dir())
    return sorted(file.relative_to(folder).as_posix() for file in found)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}

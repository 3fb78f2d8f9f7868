"""Every look at a sealed set, for good: `judgements.jsonl`, and who may look.

A look is noted when it begins, with the commit, and when it ends, with its result. A second look at
a set for a method needs a reason; going on with one that was interrupted does not, if the code is
the same. Nothing may be uncommitted but the results themselves.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.pools.results import append

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = Path(__file__).parent / "judgements.jsonl"
OUTPUTS = tuple(
    f"experiments/pools/{name}" for name in ("results", "judgements.jsonl", "tuning.csv")
)
"""What runs write, and anybody may commit between them."""

BEGUN, JUDGED = "begun", "judged"


class Refused(Exception):
    """A look that nobody may take."""


def _git(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    outside = [f":(exclude){name}" for name in OUTPUTS]
    command = ["git", "-C", str(repository), *words, "--", ".", *outside]
    return subprocess.run(command, capture_output=True, text=True)


def changed(repository: Path = REPOSITORY) -> list[str]:
    """Files that differ from the commit, or are not in it, results excepted."""
    found = _git(repository, "status", "--porcelain")
    found.check_returncode()
    return [line[3:] for line in found.stdout.splitlines()]


def commit(repository: Path = REPOSITORY) -> str:
    """The commit, twelve digits, with `+` if files differ from it."""
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout[:12] + ("+" if changed(repository) else "")


def same_code(earlier: str, repository: Path = REPOSITORY) -> bool:
    """Whether nothing but results has changed since a commit."""
    if changed(repository):
        return False
    return _git(repository, "diff", "--quiet", earlier, "HEAD").returncode == 0


def looks(file: Path = FILE) -> list[dict[str, Any]]:
    """All lines, oldest first."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def begin(
    kind: str,
    methods: Sequence[str],
    about: Mapping[str, Any],
    again: str = "",
    file: Path = FILE,
    repository: Path = REPOSITORY,
) -> None:
    """Note that a look begins, or goes on.

    Args:
        kind: The sealed set.
        methods: The methods that are looked at.
        about: Budgets and seeds.
        again: Why a second look is taken; empty: it is none.
        file: The judgements.
        repository: Checkout whose code runs.

    Raises:
        Refused: Something is uncommitted, or a method was looked at before.
    """
    if files := changed(repository):
        raise Refused(
            f"a sealed set is judged at a commit; uncommitted: {', '.join(files[:5])}"
            + (", ..." if len(files) > 5 else "")
        )
    open_looks: dict[str, dict[str, Any]] = {}
    for line in looks(file):
        if line["set"] == kind:
            open_looks.update((name, line) for name in line["methods"] if name in methods)
    goes_on = {
        name
        for name, line in open_looks.items()
        if line["state"] == BEGUN and same_code(line["commit"], repository)
    }
    if (seen := sorted(set(open_looks) - goes_on)) and not again:
        raise Refused(
            f"set {kind} was looked at before for {', '.join(seen)} "
            f"(commit {open_looks[seen[0]]['commit']}); say why it is looked at again: "
            '--again "why"'
        )
    fresh = [name for name in methods if name not in goes_on]
    if fresh:
        note(BEGUN, kind, fresh, {**about, "again": again}, file, repository)


def note(
    state: str,
    kind: str,
    methods: Sequence[str],
    about: Mapping[str, Any],
    file: Path = FILE,
    repository: Path = REPOSITORY,
) -> None:
    """Append a line: its state, commit, date, set, methods, and what else is given."""
    plain = {
        "state": state,
        "commit": commit(repository),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "set": kind,
        "methods": list(methods),
        **about,
    }
    append(file, [json.dumps(plain) + "\n"])

"""Stores as files: what lies in one, two become one, and their contents for other programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hm3rl.errors import InputError, IntegrityError
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore
from hm3rl.files import RunFolder, write_csv, write_text


@dataclass
class Section:
    """All evaluations of a store under one condition.

    Attributes:
        condition: The condition.
        tasks: Names of the tasks.
        count: Evaluations, the failed ones included.
        errors: How often each failure occurred, by the last line of its traceback.
        best: Best score by task, with its standard error and the path of the candidate.
    """

    condition: Condition
    tasks: tuple[str, ...]
    count: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    best: dict[str, tuple[float, float, str]] = field(default_factory=dict)

    def enter(self, evaluation: Evaluation, path: str) -> None:
        """Count one evaluation."""
        self.count += 1
        if not evaluation.ok:
            self.errors[evaluation.reason or "no message"] += 1
        columns = (evaluation.tasks, evaluation.scores, evaluation.standard_errors)
        for task, score, error in zip(*columns, strict=True) if evaluation.ok else ():
            if task not in self.best or score > self.best[task][0]:
                self.best[task] = (score, error, path)


class Merged(NamedTuple):
    """What merging stores came to.

    Attributes:
        new: Evaluations that were new to the target.
        unreadable: Evaluations that could not be read from damaged files.
    """

    new: int
    unreadable: int


def find_store(path: str | Path) -> Path:
    """The store that a path means: the file itself, or the one of a run folder.

    Raises:
        InputError: There is none.
    """
    found = Path(path)
    if found.is_dir():
        found = RunFolder(found).store
    if not found.is_file():
        raise InputError(
            f"no store of evaluations at {path}", "name a run folder or its evaluations.sqlite"
        )
    return found


def overview(store: EvaluationStore) -> list[Section]:
    """Describe what a store holds, by condition, in the order it was first used.

    Args:
        store: The store.

    Returns:
        One section per condition.
    """
    sections: dict[Condition, Section] = {}
    for condition, evaluation in store.evaluations():
        section = sections.setdefault(condition, Section(condition, evaluation.tasks))
        section.enter(evaluation, _path(store, evaluation.key))
    return list(sections.values())


def merge_stores(target: EvaluationStore, others: Sequence[Path]) -> Merged:
    """Copy evaluations of other stores into one; the other files stay as they are.

    Where both know an evaluation, the target's stays, unless only the other one has secondary
    metrics.

    Args:
        target: Where they go.
        others: Files to copy from, of this or an older version.

    Returns:
        How many evaluations were new, and how many a damaged file has lost.

    Raises:
        InputError: One of the files is no store, or the target itself; nothing was copied from it.
    """
    before = len(target)
    unreadable: list[int] = []
    for path in others:
        if path.resolve() == target.path.resolve():
            raise InputError(f"{path} is the store itself", "name other stores to merge from")
        with EvaluationStore(path, read_only=True) as other:
            for condition, evaluation in other.evaluations(unreadable):
                target.put(evaluation, _candidate(other, evaluation.key), condition)
    return Merged(len(target) - before, len(unreadable))


def export_store(store: EvaluationStore, path: Path) -> int:
    """Write everything to a file: a table (.csv), or one object a line with every item (.jsonl).

    Args:
        store: The store.
        path: File to write; replaced if it is there.

    Returns:
        Number of evaluations written.

    Raises:
        InputError: Neither kind of file.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise InputError(f"cannot export to {path}", "name a file that ends in .csv or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_plain(store, *entry, items=path.suffix == ".jsonl") for entry in store.evaluations()]
    if path.suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return len(rows)
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    write_csv(path, columns, [[row.get(column, "") for column in columns] for row in flat])
    return len(rows)


def _candidate(store: EvaluationStore, key: str) -> dict[str, Any]:
    """A candidate as plain data; empty where a damaged file has lost it."""
    try:
        return store.candidate(key) or {}
    except IntegrityError:
        return {}


def _path(store: EvaluationStore, key: str) -> str:
    return str((store.candidate(key) or {}).get("path", ""))


def _plain(
    store: EvaluationStore, condition: Condition, evaluation: Evaluation, items: bool
) -> dict[str, Any]:
    """An evaluation as plain data."""
    named = ("scores", "standard_errors", "nll")
    plain: dict[str, Any] = {
        "key": evaluation.key,
        "path": _path(store, evaluation.key),
        **condition._asdict(),
        "status": evaluation.status,
        **{n: dict(zip(evaluation.tasks, getattr(evaluation, n), strict=False)) for n in named},
        "secondary": evaluation.secondary or {},
        "seconds": evaluation.total_seconds,
        "error": evaluation.error or "",
    }
    if items:
        plain["candidate"] = store.candidate(evaluation.key)
        for name in ("items", "per_item", "per_item_nll"):
            arrays = getattr(evaluation, name)
            plain[name] = {task: arrays[task].tolist() for task in arrays}
    return plain


def _flat(plain: dict[str, Any]) -> dict[str, Any]:
    """Nested columns become `column_task` and `secondary_task_metric`."""
    flat: dict[str, Any] = {}
    for column, value in plain.items():
        if column == "secondary":
            for task, metrics in value.items():
                flat |= {f"{column}_{task}_{metric}": v for metric, v in metrics.items()}
        elif isinstance(value, dict):
            flat |= {f"{column}_{task}": v for task, v in value.items()}
        else:
            flat[column] = value
    return flat

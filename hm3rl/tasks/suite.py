"""The version of a set of tasks: whatever can change a score without changing the candidate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hm3rl.errors import InputError
from hm3rl.tasks.base import Split, Task

MIN_ITEMS = 2
"""Fewest items of a split that is scored: a standard error needs two."""


def suite_version(tasks: Sequence[Task], split: Split, *context: str) -> str:
    """Hash tasks, their items on a split, and the decoding limits.

    Args:
        tasks: The tasks, in the order of the score vectors.
        split: The split that is scored.
        context: Further texts that scores depend on (the tokenizer, the version of the scorer).

    Returns:
        16 hex digits, part of the key under which an evaluation is stored.
    """
    described = [
        [
            task.name,
            task.version,
            task.metric,
            task.direction,
            task.max_new_tokens,
            [item.key for item in task.items(split)],
        ]
        for task in tasks
    ]
    text = json.dumps([split, described, list(context)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Refuse a set of tasks that cannot be scored.

    Returns:
        The tasks.

    Raises:
        InputError: There is none, two share a name, or a split has too few items.
    """
    if not tasks:
        raise InputError("there is no task", "name one at least, for example tasks=zoo")
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two tasks are called {name!r}", "give each a name of its own")
    for task in tasks:
        for split in ("search", "test"):
            if len(task.items(split)) < MIN_ITEMS:
                raise InputError(
                    f"task {task.name!r} has {len(task.items(split))} items in its {split} split",
                    f"{MIN_ITEMS} are the fewest that have a standard error; 100 are useful",
                )
    return tuple(tasks)

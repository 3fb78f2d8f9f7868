"""Makes the bench's tasks selectable: `plugins=[experiments.pools.plugin]`.

The zoo's five tasks have kinds in the package already; with the bench's vocabulary they are the
same.
"""

from __future__ import annotations

from experiments.pools.lists import list_tasks
from experiments.pools.numbers import number_tasks
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import InputError
from hm3rl.registry import register
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import TaskTools

N_SEARCH, N_TEST = 150, 300
"""Items of a task where nobody says otherwise."""

OWN_TASKS = tuple(task.name for task in (*list_tasks(1, 1), *number_tasks(1, 1)))
"""Kinds of task that this module adds."""


def bench_task(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """A task of the bench, which keeps its name.

    Raises:
        InputError: It is called otherwise.
    """
    if name != settings.kind:
        raise InputError(
            f"tasks.{name}.kind={settings.kind}: the bench's tasks keep their names",
            f"call it {settings.kind!r}",
        )
    n_search, n_test = settings.search_items or N_SEARCH, settings.test_items or N_TEST
    every = (*list_tasks(n_search, n_test), *number_tasks(n_search, n_test))
    task = next(one for one in every if one.name == name)
    task.max_new_tokens = settings.max_new_tokens or task.max_new_tokens
    return task


for _kind in OWN_TASKS:
    register("task", _kind, options=SizedTaskSettings)(bench_task)

"""Makes the bench's tasks and searchers selectable: `plugins=[experiments.pools.plugin]`.

The zoo's five tasks have kinds in the package already; with the bench's vocabulary they are the
same. Everything that is registered is registered at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable

from experiments.pools.lists import list_tasks
from experiments.pools.numbers import number_tasks
from experiments.pools.searchers import Annealing, LayerBO, NoneMembers, Uniform
from hm3rl.config.schema import RunSettings, TaskSettings
from hm3rl.errors import InputError
from hm3rl.run.build import register_searcher
from hm3rl.search.base import Searcher
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import SIZES, TaskTools, register_task

N_SEARCH, N_TEST = 150, 300
"""Items of a task where nobody says otherwise."""

OWN_TASKS = tuple(task.name for task in (*list_tasks(1, 1), *number_tasks(1, 1)))
"""Kinds of task that this module adds."""


def bench_task(name: str, settings: TaskSettings, tools: TaskTools) -> Task:
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


SEARCHERS: dict[str, Callable[[RunSettings], Searcher]] = {
    "uniform": lambda s: Uniform(),
    "annealing": lambda s: Annealing(s.search, s.seed, s.planned_budget),
    "layer_bo": lambda s: LayerBO(s.search, s.seed, s.planned_budget, groups=4),
    "layer_bo_every": lambda s: LayerBO(s.search, s.seed, s.planned_budget, groups=None),
    "none_members": lambda s: NoneMembers(s.search, s.agent, s.seed, s.planned_budget),
}
"""Searchers that this module adds."""

for _kind in OWN_TASKS:
    register_task(_kind, bench_task, reads=SIZES)
for _name, _make in SEARCHERS.items():
    register_searcher(_name, _make)

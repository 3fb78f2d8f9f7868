"""From the configuration to tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields

from transformers import PreTrainedTokenizerBase

from hm3rl.config.schema import EvaluationSettings, TaskSettings
from hm3rl.config.values import check_values
from hm3rl.errors import InputError
from hm3rl.tasks.base import ProgramRunner, Task
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.harness import HarnessTask
from hm3rl.tasks.isolation import is_required
from hm3rl.tasks.jsonl import JsonlTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sandbox import SandboxPool
from hm3rl.tasks.sequences import ReversalTask, SortingTask
from hm3rl.tasks.suite import check_tasks
from hm3rl.tasks.translation import TranslationTask

JSONL_MAX_NEW_TOKENS = 64

PATH_LENGTH = "path_length"
"""Kind of an objective that is no task: no model is run for it (`hm3rl.evaluation.costs`)."""


@dataclass(frozen=True)
class TaskTools:
    """What a task may need besides its settings.

    Attributes:
        tokenizer: The models' tokenizer, for chat templates.
        runner: Executes generated programs in limited processes.
    """

    tokenizer: PreTrainedTokenizerBase
    runner: ProgramRunner


TaskFactory = Callable[[str, TaskSettings, TaskTools], Task]
"""Makes a task from its name, its settings and the tools."""


def _sizes(settings: TaskSettings) -> dict[str, int]:
    asked = {"n_search": settings.search_items, "n_test": settings.test_items}
    return {name: count for name, count in asked.items() if count}


def _zoo(make: Callable[[TaskSettings, TaskTools], Task]) -> TaskFactory:
    """A task of the tiny zoo, which keeps its name."""

    def factory(name: str, settings: TaskSettings, tools: TaskTools) -> Task:
        if name != settings.kind:
            raise InputError(
                f"tasks.{name}.kind={settings.kind}: the zoo's own tasks keep their names",
                f"call it {settings.kind!r}",
            )
        task = make(settings, tools)
        task.max_new_tokens = settings.max_new_tokens or task.max_new_tokens
        return task

    return factory


def _jsonl(name: str, settings: TaskSettings, tools: TaskTools) -> Task:
    if not settings.path:
        raise InputError(f"task {name!r} has no file", f"give tasks.{name}.path=FILE.jsonl")
    return JsonlTask(
        name,
        settings.path,
        metric=settings.metric or "exact_match",
        max_new_tokens=settings.max_new_tokens or JSONL_MAX_NEW_TOKENS,
        tokenizer=tools.tokenizer if settings.chat_template else None,
        runner=tools.runner,
        limits={"search": settings.search_items, "test": settings.test_items},
    )


def _harness(name: str, settings: TaskSettings, tools: TaskTools) -> Task:
    return HarnessTask(
        name,
        settings.lm_eval,
        tools.tokenizer,
        metric=settings.metric,
        max_new_tokens=settings.max_new_tokens,
        limits={"search": settings.search_items, "test": settings.test_items},
    )


TASK_KINDS: dict[str, TaskFactory] = {
    "translation": _zoo(lambda settings, _: TranslationTask(**_sizes(settings))),
    "math": _zoo(lambda settings, _: MathTask(**_sizes(settings))),
    "code": _zoo(lambda settings, tools: CodeTask(tools.runner, **_sizes(settings))),
    "sorting": _zoo(lambda settings, _: SortingTask(**_sizes(settings))),
    "reversal": _zoo(lambda settings, _: ReversalTask(**_sizes(settings))),
    "jsonl": _jsonl,
    "lm_eval": _harness,
}
"""Factories by `tasks.NAME.kind`."""

SIZES = ("max_new_tokens", "search_items", "test_items")

READS: dict[str, Collection[str]] = {
    "translation": SIZES,
    "math": SIZES,
    "code": SIZES,
    "sorting": SIZES,
    "reversal": SIZES,
    "jsonl": ("path", "metric", "chat_template", *SIZES),
    "lm_eval": ("lm_eval", "metric", *SIZES),
    PATH_LENGTH: ("worst",),
}
"""Keys of `TaskSettings` that a kind reads, beside `kind`; it is refused to set others."""


def register_task(kind: str, factory: TaskFactory, reads: Collection[str] | None = None) -> None:
    """Add a kind of task of one's own; `tasks.NAME.kind=KIND` then selects it.

    Args:
        kind: Its name.
        factory: Makes a task from its name, its settings and the tools.
        reads: Keys of the settings that the factory reads; whoever sets another is told that it
            means nothing. None: any of them.

    Raises:
        InputError: The kind is taken.
    """
    if kind in TASK_KINDS:
        raise InputError(f"there is a kind of task {kind!r} already", "choose another name")
    TASK_KINDS[kind] = factory
    READS[kind] = [one.name for one in fields(TaskSettings)] if reads is None else reads


def check_task_settings(tasks: Mapping[str, TaskSettings]) -> None:
    """Refuse what no task can be built from, before anything is read.

    Args:
        tasks: Settings by task name.

    Raises:
        InputError: An unknown kind, or a number out of its range.
    """
    for name, settings in tasks.items():
        if settings.kind not in READS:
            raise InputError(
                f"tasks.{name}.kind: unknown kind of task {settings.kind!r}",
                f"one of {', '.join((*TASK_KINDS, PATH_LENGTH))}",
            )
        check_values(settings, f"tasks.{name}.")


def refuse_unread(tasks: Mapping[str, TaskSettings]) -> None:
    """Refuse keys of tasks that their kinds do not read: whoever set them meant something.

    Args:
        tasks: Settings by task name, of known kinds. A run that began under a version which
            passed over such keys was scored without them; it is not asked.

    Raises:
        InputError: Names the key and what the kind reads.
    """
    for name, settings in tasks.items():
        reads = READS[settings.kind]
        for one in fields(settings):
            value = getattr(settings, one.name)
            if one.name not in ("kind", *reads) and value != one.default:
                raise InputError(
                    f"tasks.{name}.{one.name}={value} means nothing to kind={settings.kind}",
                    f"drop it; that kind reads {', '.join(reads) or 'no other key'}",
                )


def build_tasks(
    tasks: Mapping[str, TaskSettings],
    evaluation: EvaluationSettings,
    tokenizer: PreTrainedTokenizerBase,
    sources: Iterable[str] = (),
) -> tuple[Task, ...]:
    """Build the tasks of a run.

    Args:
        tasks: Settings by task name, in the order of the score vectors.
        evaluation: Limits for executing programs.
        tokenizer: The models' tokenizer, for chat templates.
        sources: What the user wrote for each source model; decides how well their programs must be
            locked up (`isolation.is_required`).

    Returns:
        The tasks, in that order, without objectives of the kind `PATH_LENGTH`.

    Raises:
        InputError: Unknown kind, bad file, or too few items.
    """
    check_task_settings(tasks)
    runner = SandboxPool(
        evaluation.program_workers,
        evaluation.program_seconds,
        evaluation.program_memory_mb,
        required=is_required(evaluation, sources),
    )
    tools = TaskTools(tokenizer, runner)
    built: list[Task] = []
    for name, settings in tasks.items():
        if settings.kind == PATH_LENGTH:
            continue
        built.append(TASK_KINDS[settings.kind](name, settings, tools))
    return check_tasks(built)

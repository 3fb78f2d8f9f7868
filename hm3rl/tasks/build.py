"""From the configuration to tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from hm3rl import registry
from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.tasks import (
    AnswerLengthSettings,
    HarnessSettings,
    JsonlSettings,
    PathLengthSettings,
    SizedTaskSettings,
    TaskSettings,
)
from hm3rl.errors import InputError
from hm3rl.tasks.base import ProgramRunner, Task
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.harness import HarnessTask
from hm3rl.tasks.isolation import is_required
from hm3rl.tasks.jsonl import JsonlTask
from hm3rl.tasks.length import AnswerLengthTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sandbox import SandboxPool
from hm3rl.tasks.sequences import ReversalTask, SortingTask
from hm3rl.tasks.suite import check_tasks
from hm3rl.tasks.sums import SumsTask
from hm3rl.tasks.translation import TranslationTask

JSONL_MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class TaskTools:
    """What a task may need besides its settings.

    Attributes:
        tokenizer: The models' tokenizer, for chat templates.
        runner: Executes generated programs in limited processes.
        others: Tasks that are asked things themselves, by name; all of them are there for those
            that measure other tasks' answers.
    """

    tokenizer: PreTrainedTokenizerBase
    runner: ProgramRunner
    others: dict[str, Task] = field(default_factory=dict)


class TaskFactory(Protocol):
    """What `register("task", KIND)` decorates: makes a task of a kind."""

    def __call__(self, name: str, settings: Any, tools: TaskTools) -> Task:
        """Make a task.

        Args:
            name: The task's name, `tasks.NAME`.
            settings: Its options, of the class that was registered with the kind.
            tools: What it may need besides.
        """
        ...


def _zoo(make: Callable[..., Task], name: str, settings: SizedTaskSettings, *tools: Any) -> Task:
    """A task of the tiny zoo, which keeps its name."""
    if name != settings.kind:
        raise InputError(
            f"tasks.{name}.kind={settings.kind}: the zoo's own tasks keep their names",
            f"call it {settings.kind!r}",
        )
    asked = {"n_search": settings.search_items, "n_test": settings.test_items}
    task = make(*tools, **{key: count for key, count in asked.items() if count})
    task.max_new_tokens = settings.max_new_tokens or task.max_new_tokens
    return task


def translation(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """The zoo's translation."""
    return _zoo(TranslationTask, name, settings)


def math(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """The zoo's arithmetic."""
    return _zoo(MathTask, name, settings)


def code(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """The zoo's programs."""
    return _zoo(CodeTask, name, settings, tools.runner)


def sorting(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """The zoo's sorting."""
    return _zoo(SortingTask, name, settings)


def reversal(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """The zoo's reversal."""
    return _zoo(ReversalTask, name, settings)


def sums(name: str, settings: SizedTaskSettings, tools: TaskTools) -> Task:
    """The zoo's sums, which may be worked out."""
    return _zoo(SumsTask, name, settings)


def jsonl(name: str, settings: JsonlSettings, tools: TaskTools) -> Task:
    """Items of the user's own."""
    if not settings.path:
        raise InputError(f"task {name!r} has no file", f"give tasks.{name}.path=FILE.jsonl")
    return JsonlTask(
        name,
        settings.path,
        metric=settings.metric,
        also=settings.also,
        fields=settings.fields,
        tolerance=settings.tolerance,
        max_new_tokens=settings.max_new_tokens or JSONL_MAX_NEW_TOKENS,
        tokenizer=tools.tokenizer if settings.chat_template else None,
        runner=tools.runner,
        limits={"search": settings.search_items, "test": settings.test_items},
        shares=settings.split,
    )


def lm_eval(name: str, settings: HarnessSettings, tools: TaskTools) -> Task:
    """A task of the lm-evaluation-harness."""
    return HarnessTask(
        name,
        settings.lm_eval,
        tools.tokenizer,
        metric=settings.metric,
        also=settings.also,
        max_new_tokens=settings.max_new_tokens,
        limits={"search": settings.search_items, "test": settings.test_items},
        shares=settings.split,
    )


def answer_length(name: str, settings: AnswerLengthSettings, tools: TaskTools) -> Task:
    """Tokens of another task's answers.

    Raises:
        InputError: There is no such task, or it generates nothing.
    """
    able = [task for task in tools.others.values() if not isinstance(task, HarnessTask)]
    named = {task.name: task for task in able}
    if settings.of not in named:
        known = settings.of in tools.others
        raise InputError(
            f"tasks.{name}.of={settings.of!r} "
            + ("is scored by the harness, which keeps its answers" if known else "is no task"),
            f"name one of {', '.join(named) or 'your own (there is none yet)'}",
        )
    return AnswerLengthTask(name, named[settings.of], tools.tokenizer)


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
        The tasks, in that order, without path length, for which no model is run
        (`hm3rl.evaluation.costs`).

    Raises:
        InputError: Unknown kind, bad file, or too few items.
    """
    runner = SandboxPool(
        evaluation.program_workers,
        evaluation.program_seconds,
        evaluation.program_memory_mb,
        required=is_required(evaluation, sources),
    )
    tools = TaskTools(tokenizer, runner)
    asked = {n: one for n, one in tasks.items() if not isinstance(one, PathLengthSettings)}
    built: dict[str, Task] = {}
    # What measures answers comes last, so that it finds whose.
    for name in sorted(asked, key=lambda n: isinstance(asked[n], AnswerLengthSettings)):
        make: TaskFactory = registry.find("task", asked[name].kind).load()
        built[name] = make(name, asked[name], tools)
        if not isinstance(asked[name], AnswerLengthSettings):
            tools.others[name] = built[name]
    return check_tasks([built[name] for name in asked])

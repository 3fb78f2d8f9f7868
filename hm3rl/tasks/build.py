"""From the configuration to tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import PreTrainedTokenizerBase

from hm3rl.errors import InputError
from hm3rl.settings import EvaluationSettings, TaskSettings
from hm3rl.tasks.base import Task
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.harness import HarnessTask
from hm3rl.tasks.jsonl import JsonlTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sandbox import SandboxPool
from hm3rl.tasks.suite import check_tasks
from hm3rl.tasks.translation import TranslationTask

JSONL_MAX_NEW_TOKENS = 64
OWN_DATA = ("jsonl", "lm_eval")
"""Kinds that may stand several times, under names of the user's."""


def build_tasks(
    tasks: Mapping[str, TaskSettings],
    evaluation: EvaluationSettings,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Task, ...]:
    """Build the tasks of a run.

    Args:
        tasks: Settings by task name, in the order of the score vectors.
        evaluation: Limits for executing programs.
        tokenizer: The models' tokenizer, for chat templates.

    Returns:
        The tasks, in that order.

    Raises:
        InputError: Unknown kind, bad file, or too few items.
    """
    runner = SandboxPool(
        evaluation.program_workers, evaluation.program_seconds, evaluation.program_memory_mb
    )

    def sizes(settings: TaskSettings) -> dict[str, int]:
        asked = {"n_search": settings.search_items, "n_test": settings.test_items}
        return {name: count for name, count in asked.items() if count}

    def jsonl(name: str, settings: TaskSettings) -> Task:
        if not settings.path:
            raise InputError(f"task {name!r} has no file", f"give tasks.{name}.path=FILE.jsonl")
        return JsonlTask(
            name,
            settings.path,
            metric=settings.metric or "exact_match",
            max_new_tokens=settings.max_new_tokens or JSONL_MAX_NEW_TOKENS,
            tokenizer=tokenizer if settings.chat_template else None,
            runner=runner,
            limits={"search": settings.search_items, "test": settings.test_items},
        )

    def harness(name: str, settings: TaskSettings) -> Task:
        return HarnessTask(
            name,
            settings.lm_eval,
            tokenizer,
            metric=settings.metric,
            max_new_tokens=settings.max_new_tokens,
            limits={"search": settings.search_items, "test": settings.test_items},
        )

    kinds: dict[str, Callable[[str, TaskSettings], Task]] = {
        "translation": lambda _, settings: TranslationTask(**sizes(settings)),
        "math": lambda _, settings: MathTask(**sizes(settings)),
        "code": lambda _, settings: CodeTask(runner, **sizes(settings)),
        "jsonl": jsonl,
        "lm_eval": harness,
    }
    built: list[Task] = []
    for name, settings in tasks.items():
        if settings.kind not in kinds:
            raise InputError(
                f"tasks.{name}.kind: unknown kind of task {settings.kind!r}",
                f"one of {', '.join(kinds)}",
            )
        if settings.kind not in OWN_DATA and name != settings.kind:
            raise InputError(
                f"tasks.{name}.kind={settings.kind}: the zoo's own tasks keep their names",
                f"call it {settings.kind!r}",
            )
        for key in ("max_new_tokens", "search_items", "test_items"):
            if getattr(settings, key) < 0:
                raise InputError(
                    f"tasks.{name}.{key}={getattr(settings, key)}", "give 0 (the default) or more"
                )
        task = kinds[settings.kind](name, settings)
        if settings.kind not in OWN_DATA:
            task.max_new_tokens = settings.max_new_tokens or task.max_new_tokens
        built.append(task)
    return check_tasks(built)

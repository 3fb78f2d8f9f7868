"""How well generated programs must be locked up, and when that is looked at.

What is in force, and whether it is enough, every sandbox finds out for itself (`sandbox.left_open`,
`SandboxPool.required`), in a worker on another machine as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.values import choices
from hm3rl.models.zoo import ZOO_PREFIX
from hm3rl.tasks.base import Task

ISOLATIONS = choices(EvaluationSettings, "isolation")
"""Values of `evaluation.isolation`."""


def is_required(evaluation: EvaluationSettings, sources: Iterable[str]) -> bool:
    """Whether programs are refused where the kernel leaves files or network open to them.

    Args:
        evaluation: `isolation` decides, if it is not `auto`.
        sources: What the user wrote for each source model. Models shipped with the package write
            harmless programs; nobody knows what others write, and none named counts as others.
    """
    if evaluation.isolation != "auto":
        return evaluation.isolation == "require"
    named = list(sources)
    return not named or not all(name.startswith(ZOO_PREFIX) for name in named)


def check_isolation(tasks: Iterable[Task]) -> None:
    """Lock a first process up for each task that runs programs, before any work.

    Raises:
        InputError: Too little of it is in force, and more is required.
    """
    for task in tasks:
        if task.runner is not None:
            task.runner.check()

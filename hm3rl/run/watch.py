"""Tasks that a search does not see: what its models forgot, told on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hm3rl.config.schema import RunSettings
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.paths.candidate import Candidate
from hm3rl.tasks.build import build_tasks
from hm3rl.tasks.isolation import check_isolation


def watch(settings: RunSettings, problem: MergeProblem) -> Evaluator | None:
    """What scores the watched tasks (`role: watch`) of a run, or None if there are none.

    Raises:
        InputError: One of them cannot be scored.
    """
    if not settings.watched:
        return None
    pool = problem.pool
    tasks = build_tasks(
        settings.watched, settings.evaluation, pool.tokenizer, pool.origins.values()
    )
    check_isolation(tasks)
    batch = settings.evaluation.batch_size
    evaluator = Evaluator(problem.members, tasks, problem.evaluator.store, batch)
    evaluator.prepare("test")
    return evaluator


def scored(
    evaluator: Evaluator | None, candidates: Mapping[str, Candidate]
) -> dict[str, Evaluation]:
    """Evaluations of watched tasks on the test split, by the candidates' names."""
    if evaluator is None:
        return {}
    found = evaluator.evaluate(list(candidates.values()), "test")
    return dict(zip(candidates, found, strict=True))


def with_watched(
    evaluation: Evaluation, watched: Evaluation, tasks: Mapping[str, str]
) -> Evaluation:
    """An evaluation with scores of watched tasks, and their errors, among its secondary metrics.

    Args:
        evaluation: Of the objectives, on the test split.
        watched: Of the same candidate.
        tasks: Metric by watched task.
    """
    if not watched.ok:
        return evaluation
    pairs = zip(watched.tasks, watched.scores, watched.standard_errors, strict=True)
    more = {t: {tasks[t]: score, f"{tasks[t]}_se": error} for t, score, error in pairs}
    return replace(evaluation, secondary={**(evaluation.secondary or {}), **more})


def summarised(evaluator: Evaluator | None, found: Mapping[str, Evaluation]) -> dict[str, Any]:
    """What summary.json says of watched tasks: metrics, and score and error of each model."""
    if evaluator is None:
        return {}

    def pairs(one: Evaluation) -> Sequence[tuple[str, list[float]]]:
        columns = zip(one.tasks, one.scores, one.standard_errors, strict=True)
        return [(task, [float(score), float(error)]) for task, score, error in columns]

    return {
        "tasks": {task.name: task.metric for task in evaluator.tasks},
        "minimised": {
            name: {"worst": one.worst, "unit": one.unit}
            for name, one in evaluator.minimised.items()
        },
        "scores": {name: dict(pairs(one)) for name, one in found.items() if one.ok},
    }

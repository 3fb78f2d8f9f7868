"""What the models of a run answered to a few items: kept with it, so that people can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.texts import Answerer
from hm3rl.files import RunFolder
from hm3rl.paths.candidate import Candidate

ITEMS = 10
"""Items of each task whose answers are kept, the first of the search split: who looks at answers
chooses by them, and nothing is chosen on the test split."""

MODELS = 24
"""Models of the front whose answers are kept, the first of front.csv."""

CHARACTERS = 2000
"""Of a longer text the first are kept."""


def collect(
    problem: MergeProblem, sources: Mapping[str, Candidate], front: Mapping[str, Candidate]
) -> dict[str, Any]:
    """Let the sources and the front answer.

    Args:
        problem: After the search.
        sources: Experts and base by name.
        front: Its models by name, in the order of front.csv.

    Returns:
        What answers.json holds: `split`, `metrics` by task, `items` by task (prompt and reference)
        and `answers` by model and task (text and score, in the order of the items).
    """
    tasks = problem.evaluator.tasks
    answerer = Answerer(problem.members, tasks, "search", ITEMS)
    asked = {**sources, **dict(list(front.items())[:MODELS])}
    answers = {
        model: {
            task: [[_cut(one.text), round(float(one.score), 4)] for one in said]
            for task, said in answerer.answers(candidate).items()
        }
        for model, candidate in asked.items()
    }
    items = {
        task.name: [
            {"prompt": _cut(item.prompt), "reference": _cut(item.reference)}
            for item in answerer.items(task.name)
        ]
        for task in tasks
    }
    metrics = {task.name: task.metric for task in tasks}
    return {"split": "search", "metrics": metrics, "items": items, "answers": answers}


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"


def answers_of(
    folder: RunFolder, model: str, tasks: Sequence[str] = ()
) -> dict[str, list[dict[str, Any]]]:
    """What a model of a run answered.

    Args:
        folder: The run's.
        model: `M03` as in front.csv, an expert, or `base`.
        tasks: The tasks to show; empty: all.

    Returns:
        By task one entry an item: `prompt`, `reference`, `answer` and `score`.

    Raises:
        InputError: The run has no answers of this model, or no such task.
    """
    kept = folder.read_answers()
    if model not in kept["answers"]:
        raise InputError(
            f"the run in {folder.path} keeps no answers of {model!r}",
            f"it has those of {', '.join(kept['answers'])}",
        )
    for task in tasks:
        if task not in kept["items"]:
            raise InputError(f"the run has no task {task!r}", f"one of {', '.join(kept['items'])}")
    return {
        task: [
            {**item, "answer": text, "score": score}
            for item, (text, score) in zip(items, kept["answers"][model][task], strict=True)
        ]
        for task, items in kept["items"].items()
        if not tasks or task in tasks
    }

"""One search on a pool, and the scoring of its front on held-out items.

As `hm3rl search`, but for the end: of the front at most `MODELS` models are scored on held-out
items, at every budget asked for, and no pictures are drawn. A search that was killed goes on when
it is started again: the store of its pool has all that was scored.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pools.results import Front, Key
from experiments.zoo.levels import pick_members
from hm3rl import api
from hm3rl.config.compose import to_yaml
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.events import LoggerGroup
from hm3rl.files import RunFolder, RunLock, write_text
from hm3rl.objectives.archive import Archive
from hm3rl.paths.candidate import Candidate
from hm3rl.reporting.csv_logger import CsvLogger
from hm3rl.run.build import build_problem, build_searcher
from hm3rl.run.conclusion import experts, experts_on_test
from hm3rl.run.job import note_environment

MODELS = 24
"""Most models of a front that are scored on held-out items."""


def search(
    key: Key, words: Sequence[str], budgets: Sequence[int], folder: Path, store: Path, commit: str
) -> list[Front]:
    """Search, or go on with a search, and score its front.

    Args:
        key: Pool, method and seed; its budget is the search's.
        words: Hydra overrides of pool and method.
        budgets: Budgets to be read off.
        folder: Run folder.
        store: Evaluations of all searches on the pool; sharing them saves time, never budget.
        commit: Code that runs.

    Returns:
        A front for each budget.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    own = [f"budget={key.budget}", f"seed={key.seed}", f"output={folder}"]
    settings = api.settings(*words, *own, f"evaluation.store={store}")
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(run):
        logger = LoggerGroup([CsvLogger(run, list(settings.tasks))])
        problem, status = build_problem(settings, run.store, logger), "failed"
        note_environment(run, problem, run.environment.is_file())
        write_text(run.config, to_yaml(settings))
        begun = time.perf_counter()
        try:
            problem.prepare()
            experts_on_test(problem)
            build_searcher(settings).search(problem, settings.budget)
            searched = time.perf_counter()
            found = [scored(problem, run, key._replace(budget=b), commit) for b in budgets]
            status = "finished"
        finally:
            logger.finish(status)
            problem.evaluator.close()
            problem.evaluator.store.close()
    seconds = {"search": searched - begun, "held_out": time.perf_counter() - searched}
    whole = {**seconds, "deciding": problem.deciding}
    found[-1] = _noted(found[-1], {name: round(value, 1) for name, value in whole.items()})
    return found


def scored(problem: MergeProblem, run: RunFolder, key: Key, commit: str) -> Front:
    """The front by scores as it stood after `key.budget` evaluations, on held-out items.

    Args:
        problem: After the search.
        run: Its folder, whose archive has the order of the evaluations.
        key: Whose front.
        commit: Code that ran.

    Returns:
        Experts and at most `MODELS` others: those that add most to the hypervolume of the search
        split, one after the other.
    """
    archive, proposers = Archive(problem.objectives, problem.z_star), Counter[str]()
    curve: dict[float, float] = {}
    for line in run.read_archive():
        if line["evaluations"] > key.budget:
            continue
        if line["evaluations"] > 0:
            proposers[line["chosen_by"]] += 1
        if not line["failed"]:
            archive.add(line["key"], [line["scores"][name] for name in problem.objectives])
            curve[line["evaluations"]] = round(archive.hypervolume(), 6)
    candidates = {one: problem.candidate(one) for one in archive.keys}
    about = {"chosen_by": dict(proposers), "curve": _folded(curve)}
    return tested(problem, key, archive, candidates, commit, about=about)


def tested(
    problem: MergeProblem,
    key: Key,
    archive: Archive,
    candidates: Mapping[str, Candidate],
    commit: str,
    most: int = MODELS,
    about: Mapping[str, Any] | None = None,
) -> Front:
    """The front of an archive, or what adds most to its hypervolume, on held-out items.

    Args:
        problem: What was searched.
        key: Whose front.
        archive: What the front goes by: scores on the search split, or posterior means of them.
        candidates: Its models by key.
        commit: Code that ran.
        most: Models that are scored, beside the experts.
        about: What else is worth knowing.

    Returns:
        Experts and at most `most` others, chosen one after the other.
    """
    sources = [problem.key(one) for one in experts(problem)]
    keys = [one for one in archive.front_keys() if one not in sources]
    points = np.array([archive.vector(one) for one in keys]).reshape(len(keys), -1)
    own = np.array([archive.vector(one) for one in sources])
    chosen = pick_members(points / problem.z_star, own / problem.z_star, min(most, len(keys)))
    models = [keys[i] for i in chosen]
    asked = [*experts(problem), *(candidates[one] for one in models)]
    found = problem.rescore(asked, "test", secondary=False)
    kept = [i for i, one in enumerate(found) if one.ok]
    noted = {**(about or {}), "front": len(keys)}
    if len(kept) < len(found):
        noted["failed"] = len(found) - len(kept)
    return Front(
        key=key,
        commit=commit,
        experts=tuple(problem.pool.expert_names),
        models=tuple(found[i].key for i in kept if i >= len(own)),
        solved=solved(key, problem.objectives, [found[i] for i in kept]),
        search=np.concatenate([own, points[chosen]])[kept],
        volume=archive.hypervolume(),
        about=noted,
    )


def solved(key: Key, tasks: Sequence[str], tested: Sequence[Evaluation]) -> dict[str, np.ndarray]:
    """By task, whether each model solves each item, bool of shape (models, items).

    Raises:
        ValueError: An item has a score between 0 and 1.
    """
    rows = {task: np.array([one.per_item[task] for one in tested]) for task in tasks}
    if any(((row != 0) & (row != 1)).any() for row in rows.values()):
        raise ValueError(f"{key}: a score of an item is neither 0 nor 1")
    return {task: row.astype(bool) for task, row in rows.items()}


def _folded(curve: Mapping[float, float]) -> list[tuple[float, float]]:
    """The evaluations at which a curve rises, with its values there; the first is the sources'."""
    steps = list(curve.items())
    return [one for i, one in enumerate(steps) if i == 0 or one[1] > steps[i - 1][1]]


def _noted(front: Front, seconds: Mapping[str, Any]) -> Front:
    return Front(**{**vars(front), "about": {**front.about, "seconds": seconds}})

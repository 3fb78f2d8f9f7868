"""What a search leaves when it ends: its front on both splits, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from hm3rl.agents.base import Agent
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.problem import MergeProblem, refuse_impossible
from hm3rl.evaluation.result import Evaluation
from hm3rl.files import POSTERIOR, SCORES
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.posterior import Posterior
from hm3rl.objectives.utility import Utility
from hm3rl.paths.candidate import Candidate
from hm3rl.run.references import Reference
from hm3rl.run.watch import scored, summarised, with_watched


@dataclass(frozen=True)
class FrontRow:
    """One model of the front.

    Attributes:
        name: Short name in the run: `M00`, `M01`, ...
        key: Content hash of the candidate.
        candidate: What rebuilds it.
        search: Evaluation on the search split.
        test: Evaluation on the test split.
        on_test_front: Whether it stays non-dominated on the test split.
        posterior: Posterior mean and error of its search scores, each of shape (K,), if the front
            goes by them.
    """

    name: str
    key: str
    candidate: Candidate
    search: Evaluation
    test: Evaluation
    on_test_front: bool
    posterior: tuple[np.ndarray, np.ndarray] | None


def experts(problem: MergeProblem) -> list[Candidate]:
    """The experts as candidates."""
    depth = problem.pool.num_layers
    return [Candidate.whole(name, depth) for name in problem.pool.expert_names]


def sources_of(problem: MergeProblem) -> dict[str, Candidate]:
    """The experts and the base as candidates, by name."""
    names = (*problem.pool.expert_names, problem.pool.base_name)
    return {name: Candidate.whole(name, problem.members.num_layers(name)) for name in names}


def experts_on_test(problem: MergeProblem) -> np.ndarray:
    """Best score of the experts on each task, test split, shape (K,); the search never sees it.

    Raises:
        InputError: It is zero for a task, or an expert cannot be scored.
    """
    tested = problem.rescore(experts(problem), split="test", secondary=True)
    for name, evaluation in zip(problem.pool.expert_names, tested, strict=True):
        if not evaluation.ok:
            raise InputError(
                f"the expert {name!r} cannot be scored on the test items: {evaluation.reason}",
                "check that it generates text with plain transformers",
            )
    best: np.ndarray = np.array([evaluation.vector for evaluation in tested]).max(axis=0)
    refuse_impossible(problem.objectives, best, "test")
    return best


class Tested(NamedTuple):
    """What came of scoring fronts on the test split.

    Attributes:
        fronts: By what a front goes by (`SCORES`, and `POSTERIOR` if there is one), the archive of
            its test scores, the experts' own points included, normalised by the experts' best.
        sources: The experts' evaluations by name.
    """

    fronts: Mapping[str, Archive]
    sources: Mapping[str, Evaluation]


def rescore_front(
    problem: MergeProblem, expected: Posterior | None
) -> tuple[list[FrontRow], Tested]:
    """Score the front of the search split on the test split, once, and filter again.

    Args:
        problem: After the search.
        expected: What the front goes by, if there is one. The front by scores is tested, too: its
            hypervolume is what methods are compared by, whether or not they have a surrogate.

    Returns:
        The front, best mean first, and what was tested.
    """
    fronts = {SCORES: problem.archive}
    if expected is not None:
        fronts[POSTERIOR] = expected.means
    sources, best = experts(problem), experts_on_test(problem)
    asked = [problem.key(one) for one in sources]
    asked += [key for archive in fronts.values() for key in archive.front_keys()]
    keys = list(dict.fromkeys(asked))
    candidates = [problem.candidate(key) for key in keys]
    scored = problem.rescore(candidates, split="test", secondary=True)
    tested = dict(zip(keys, scored, strict=True))
    tests = {by: Archive(problem.objectives, best) for by in fronts}
    for by, archive in fronts.items():
        for key in (*asked[: len(sources)], *archive.front_keys()):
            if tested[key].ok:
                tests[by].add(key, tested[key].vector)
    shown = problem.archive if expected is None else expected.means
    stays = set(tests[SCORES if expected is None else POSTERIOR].front_keys())
    order = sorted(shown.front_keys(), key=lambda key: -float(shown.vector(key).mean()))
    rows = [
        FrontRow(
            name=f"M{number:02d}",
            key=key,
            candidate=problem.candidate(key),
            search=problem.evaluation(key),
            test=tested[key],
            on_test_front=key in stays,
            posterior=None if expected is None else (shown.vector(key), expected.errors[key]),
        )
        for number, key in enumerate(order)
    ]
    names = problem.pool.expert_names
    return rows, Tested(tests, {name: tested[key] for name, key in zip(names, asked, strict=False)})


def further_scores(
    tested: Mapping[str, Evaluation], references: Mapping[str, Reference]
) -> dict[str, Any]:
    """What summary.json says of metrics that were reported beside those that decide, test split.

    Args:
        tested: Test evaluations of the front and the experts, by name.
        references: The uniform blends.

    Returns:
        `metrics`, names by task, and `scores` by model, task and metric; empty if there are none.
    """
    named = {**tested, **{name: one.test for name, one in references.items()}}
    scores = {
        name: {task: dict(found) for task, found in (one.secondary or {}).items() if found}
        for name, one in named.items()
    }
    metrics: dict[str, list[str]] = {}
    for found in scores.values():
        for task, values in found.items():
            metrics.setdefault(task, list(values))
    return {"metrics": metrics, "scores": scores} if metrics else {}


def watched_scores(
    watching: Evaluator | None,
    problem: MergeProblem,
    front: Sequence[FrontRow],
    references: Mapping[str, Reference],
) -> tuple[list[FrontRow], dict[str, Any]]:
    """Score watched tasks on the test split: of the front, the sources and the references.

    Returns:
        The front, with these scores among its secondary metrics, and what summary.json says.
    """
    if watching is None:
        return list(front), {}
    candidates = sources_of(problem)
    candidates |= {name: one.candidate for name, one in references.items()}
    candidates |= {row.name: row.candidate for row in front}
    found = scored(watching, candidates)
    metrics = {task.name: task.metric for task in watching.tasks}
    rows = [replace(row, test=with_watched(row.test, found[row.name], metrics)) for row in front]
    return rows, summarised(watching, found)


def posterior_table(expected: Posterior) -> tuple[list[str], list[list[Any]]]:
    """Posterior means and errors of every evaluated model as columns and rows."""
    tasks = expected.means.objectives
    columns = ["key", *tasks, *(f"{task}_se" for task in tasks)]
    rows = [
        [key, *(f"{value:.6f}" for value in (*expected.means.vector(key), *expected.errors[key]))]
        for key in expected.means.keys
    ]
    return columns, rows


def front_table(
    problem: MergeProblem, front: Sequence[FrontRow]
) -> tuple[list[str], list[list[Any]]]:
    """The front as columns and rows: what it goes by and both splits, with errors; path, key."""
    columns = ["name"]
    by_posterior = any(row.posterior is not None for row in front)
    for block in (*([POSTERIOR] if by_posterior else []), "search", "test"):
        columns += [f"{block}_{task}" for task in problem.objectives]
        columns += [f"{block}_{task}_se" for task in problem.objectives]
    secondary = _secondary([row.test for row in front])
    columns += [f"test_{name}" for name in secondary]
    columns += ["on_test_front", "length", "path", "key"]
    rows: list[list[Any]] = []
    for row in front:
        cells: list[Any] = [row.name]
        if row.posterior is not None:
            cells += [f"{value:.4f}" for value in np.concatenate(row.posterior)]
        for evaluation in (row.search, row.test):
            nothing = (np.nan,) * len(problem.z_star)  # a failure is no score
            scores = evaluation.scores if evaluation.ok else nothing
            errors = evaluation.standard_errors if evaluation.ok else nothing
            cells += [f"{value:.4f}" for value in (*scores, *errors)]
        own = _secondary([row.test])
        cells += [f"{own.get(name, np.nan):.4f}" for name in secondary]
        path = row.candidate.path
        cells += [int(row.on_test_front), len(path.refs), str(path), row.key]
        rows.append(cells)
    return columns, rows


def _secondary(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Secondary metrics as `task_metric`, of the last evaluation that has them."""
    return {
        f"{task}_{name}": value
        for evaluation in evaluations
        for task, metrics in (evaluation.secondary or {}).items()
        for name, value in metrics.items()
    }


def summarise(
    settings: RunSettings,
    problem: MergeProblem,
    searcher: str,
    front: Sequence[FrontRow],
    tested: Tested,
    expected: Posterior | None,
) -> dict[str, Any]:
    """The figures of a run, each with its normalisation and reference point."""
    test = tested.fronts[SCORES]
    sources = Archive(problem.objectives, problem.z_star)
    scores: dict[str, dict[str, list[float]]] = {}
    for name, evaluation in tested.sources.items():
        key = problem.key(Candidate.whole(name, problem.pool.num_layers))
        sources.add(key, problem.archive.vector(key))
        scores[name] = {
            "search": [float(value) for value in problem.archive.vector(key)],
            "test": [float(value) for value in evaluation.vector],
        }
        if expected is not None:
            scores[name][POSTERIOR] = [float(value) for value in expected.means.vector(key)]
    volumes: dict[str, Any] = {}
    if expected is not None:
        own = tested.fronts[POSTERIOR].hypervolume()
        volumes[POSTERIOR] = {"search": expected.means.hypervolume(), "test": own}
    return {
        "name": settings.name,
        "searcher": searcher,
        "seed": settings.seed,
        "budget": settings.budget,
        "evaluations": problem.used,
        # What the search split was scored by; the test split is always scored in full.
        "fidelity": str(problem.fidelity),
        # How many of them each part of the search proposed.
        "chosen_by": dict(problem.chosen_by),
        "failed": problem.failed,
        "objectives": list(problem.objectives),
        # What `pick` goes by.
        "utility": Utility.of(settings.agent).to_dict(),
        # `search` and `test` are of the front by scores, whatever is shown: every method has one.
        "hypervolume": {
            "search": problem.archive.hypervolume(),
            "test": test.hypervolume(),
            "sources_search": sources.hypervolume(),
            **volumes,
            "normalisation": "f / z*, z* = best source expert on each task, same split",
            "reference": 0.0,
        },
        # Their scores are utilities, 1 - cost / worst (hm3rl.evaluation.costs).
        "minimised": {
            name: {"worst": found.worst, "unit": found.unit}
            for name, found in problem.evaluator.minimised.items()
        },
        "z_star": {
            "search": [float(z) for z in problem.z_star],
            "test": [float(z) for z in test.z_star],
        },
        "sources": scores,
        "front": {
            "by": SCORES if expected is None else POSTERIOR,
            "search": len(front),
            "test": sum(row.on_test_front for row in front),
        },
    }


def seconds(
    spent: Mapping[str, float], agent: Agent | None, search_seconds: float, problem: MergeProblem
) -> dict[str, Any]:
    """Where the time of the search went.

    `model` and `programs` are the evaluator's own clocks, the latter of the time in which it could
    only wait for programs; `agent` is the agent's own time, the evaluations it asked for excepted,
    and that of the Gaussian processes that choose merges (`search.parameter.sampler=gp`);
    `other` is the rest (merging and assembly are part of it), stated also for each evaluation.
    """
    deciding = problem.deciding + (agent.seconds if agent is not None else 0.0)
    model, programs = spent.get("model", 0.0), spent.get("programs", 0.0)
    other = max(search_seconds - deciding - model - programs, 0.0)
    return {
        "search": round(search_seconds, 3),
        "model": round(model, 3),
        "programs": round(programs, 3),
        "agent": round(deciding, 3),
        "merging": round(spent.get("merging", 0.0), 3),
        "other": round(other, 3),
        "other_ms_per_evaluation": round(1000 * other / max(problem.used, 1), 3),
    }

"""One search in one run folder: what `hm3rl search` does, without the terminal."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hm3rl.agents.base import Agent
from hm3rl.config.compose import to_dict, to_yaml
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError, IntegrityError, MachineError
from hm3rl.evaluation.causes import blamed
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.events import LoggerGroup, RunLogger
from hm3rl.files import (
    PACKAGE,
    POSTERIOR,
    SCORES,
    RunFolder,
    RunLock,
    check_name,
    checked_out,
    describe_environment,
    peak_memory,
    write_csv,
    write_text,
)
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.posterior import Posterior
from hm3rl.objectives.utility import Utility
from hm3rl.paths.candidate import Candidate
from hm3rl.run.build import build_problem, build_searcher, check_settings
from hm3rl.run.sources import reopen_problem
from hm3rl.search.architecture_level import posterior
from hm3rl.tasks.isolation import check_isolation

LOG = logging.getLogger(__name__)

MakeLoggers = Callable[[RunFolder, RunSettings], Sequence[RunLogger]]


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


@dataclass(frozen=True)
class SearchResult:
    """What a finished search leaves in memory.

    Attributes:
        folder: The run folder.
        problem: The problem, with its archive.
        agent: The trained agent, if the searcher has one.
        front: The front, best mean first; by posterior means where the agent can say them.
        summary: Contents of summary.json.
    """

    folder: RunFolder
    problem: MergeProblem
    agent: Agent | None
    front: list[FrontRow]
    summary: dict[str, Any]


def open_folder(settings: RunSettings, resumed: bool) -> RunFolder:
    """The folder of a run; a new run never writes into one that is there.

    Args:
        settings: The run.
        resumed: Whether the run continues in the folder `settings.output`.

    Returns:
        An existing folder.

    Raises:
        InputError: `output` names a folder that holds a run already, or cannot be made.
    """
    if settings.output:
        folder = RunFolder(settings.output)
        if folder.config.exists() and not resumed:
            raise InputError(
                f"{folder.path} holds a run already",
                f"continue it with resume={folder.path}, or give another output=",
            )
    else:
        check_name("name", settings.name)
        stem = Path(settings.root) / f"{settings.name}-seed{settings.seed}"
        folder = RunFolder(stem)
        number = 2
        while folder.config.exists():
            folder = RunFolder(stem.with_name(f"{stem.name}-{number}"))
            number += 1
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the run folder {folder.path}: {error.strerror}", "give another output="
        ) from None
    return folder


def run_search(
    settings: RunSettings,
    make_loggers: MakeLoggers,
    resumed: bool = False,
    afterwards: Callable[[SearchResult], None] | None = None,
) -> SearchResult:
    """Run a search, or continue a killed one, and write its folder.

    Args:
        settings: The run.
        make_loggers: Gives the listeners once the folder exists.
        resumed: Whether `settings.output` holds the run to be continued.
        afterwards: Writes more into the folder of the finished run, which nobody else may write
            meanwhile.

    Returns:
        The result; everything it says is in the folder too.

    Raises:
        InputError: Bad input; nothing was run.
        MachineError: Something outside the search failed; its notes say how to go on.
    """
    with locked(settings, resumed) as folder:
        with OpenRun(settings, folder, make_loggers, resumed) as run:
            searcher = build_searcher(settings)
            clock = run.clock()
            searcher.search(run.problem, settings.budget)
            result = run.conclude(searcher.name, clock, searcher.agent)
        if afterwards is not None:
            afterwards(result)
    return result


@contextmanager
def locked(settings: RunSettings, resumed: bool = False) -> Iterator[RunFolder]:
    """The folder of a run, which nobody else may write meanwhile.

    Raises:
        InputError: See `run_search`.
    """
    check_settings(settings, began=resumed)
    folder = open_folder(settings, resumed)
    with RunLock(folder), resumable(folder):
        yield folder


class Clock(NamedTuple):
    """When a search began, and what the evaluator's clocks showed then."""

    evaluator: Counter[str]
    started: float


class OpenRun:
    """A run between its first line and its last: somebody has candidates scored, and concludes.

    Entered, it loads sources and tasks, scores the sources, which is free, and listeners hear it.
    Left without a conclusion it can be resumed.

    Attributes:
        problem: The problem, prepared.

    Args:
        settings: The run; `output` is set to its folder.
        folder: Its folder, locked.
        make_loggers: Gives the listeners.
        resumed: Whether it is continued.
    """

    problem: MergeProblem

    def __init__(
        self,
        settings: RunSettings,
        folder: RunFolder,
        make_loggers: MakeLoggers,
        resumed: bool = False,
    ) -> None:
        self.settings, self.folder, self.resumed = settings, folder, resumed
        self.logger = LoggerGroup([])
        self._make_loggers = make_loggers
        self._status = "failed"

    def __enter__(self) -> OpenRun:
        settings, folder = self.settings, self.folder
        self._begun = time.perf_counter()
        again = self.resumed and folder.environment.is_file()
        build = reopen_problem if again else _new_problem
        self.problem = build(settings, folder, self.logger)
        check_isolation(self.problem.evaluator.tasks)
        for note in self.problem.pool.notes:
            LOG.warning(note)
        settings.output = str(folder.path)
        note_environment(folder, self.problem, again)
        write_text(folder.config, to_yaml(settings))
        asked = folder.begin_anew() if self.resumed else []
        self._before = [Candidate.from_dict(line["candidate"]) for line in asked]
        # From here to the end the folder is unfinished, also if it was finished before.
        folder.summary.unlink(missing_ok=True)
        try:
            for listener in self._make_loggers(folder, settings):
                self.logger.loggers = (*self.logger.loggers, listener)
            self.logger.start(to_dict(settings))
            self.logger.phase("sources", 0)
            self.problem.prepare()
            experts_on_test(self.problem)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def clock(self) -> Clock:
        """The time now, for `conclude`."""
        return Clock(Counter(self.problem.evaluator.totals.seconds), time.perf_counter())

    def conclude(self, chosen_by: str, clock: Clock, agent: Agent | None = None) -> SearchResult:
        """Score the front on the test split and write what a finished run leaves.

        Args:
            chosen_by: Who searched: a searcher's name.
            clock: When it began to.
            agent: The trained agent, if there is one.
        """
        problem, folder, settings = self.problem, self.folder, self.settings
        search_seconds = time.perf_counter() - clock.started
        spent = problem.evaluator.totals.seconds - clock.evaluator
        if agent is not None:
            agent.save(folder.agent)
        # With another budget the search may have decided otherwise than it did before.
        earlier = problem.recall(self._before)
        self.logger.phase("test scores of the front", 0)
        evaluated = {key: problem.candidate(key) for key in problem.archive.keys}
        expected = posterior(problem, agent, evaluated)
        front, tested = rescore_front(problem, expected)
        summary = summarise(settings, problem, chosen_by, front, tested, expected)
        summary["seconds"] = seconds(spent, agent, search_seconds, problem)
        summary["resumed"] = self.resumed
        summary["agent"] = agent is not None
        summary["earlier"] = earlier
        # Of the process: searches of one sweep share it, and workers of a pool are not in it.
        summary["peak_memory_mb"] = round(peak_memory() / 2**20)
        summary["seconds"]["whole_run"] = round(time.perf_counter() - self._begun, 3)
        columns, rows = front_table(problem, front)
        write_csv(folder.front, columns, rows)
        folder.posterior.unlink(missing_ok=True)
        if expected is not None:
            write_csv(folder.posterior, *posterior_table(expected))
        self.logger.table("front", columns, rows)
        folder.write_json(folder.summary, summary)
        if all(map(problem.seen, self._before)):
            folder.settle()
        self._status = "finished"
        return SearchResult(folder, problem, agent, front, summary)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._status = "interrupted"
        elif isinstance(error, InputError):  # it would be refused again
            self._status = "refused"
        elif error is None and self._status != "finished":
            self._status = "interrupted"
        self.problem.evaluator.close()
        if self._status != "finished":
            # What it claimed is free then, also for another search of this process, where the
            # error's traceback would keep the store open.
            self.problem.evaluator.store.close()
        self.logger.finish(self._status)


@contextmanager
def resumable(folder: RunFolder) -> Iterator[None]:
    """Let what the machine failed to do leave as a `MachineError` that says how to go on."""
    try:
        try:
            yield
        except (OSError, MemoryError, RuntimeError, sqlite3.Error):
            with blamed("go on with the search"):
                raise
    except (MachineError, IntegrityError) as error:
        if folder.config.is_file():
            error.add_note(
                "every finished evaluation is kept; when that is mended, go on with: "
                f"hm3rl search resume={folder.path}"
            )
        raise


def _new_problem(settings: RunSettings, folder: RunFolder, logger: RunLogger) -> MergeProblem:
    return build_problem(settings, folder.store, logger)


def note_environment(folder: RunFolder, problem: MergeProblem, again: bool) -> None:
    """Write environment.json, or add this commit to that of a run which is continued.

    Args:
        folder: The run folder.
        problem: Its sources are the run's.
        again: Whether the run has one.
    """
    if not again:
        notes = {task.name: task.notes() for task in problem.evaluator.tasks}
        described = describe_environment(dict(problem.pool.hashes), notes)
        folder.write_json(folder.environment, described)
        return
    noted = folder.read_environment()
    commit = checked_out(PACKAGE.parent)
    if commit and commit not in noted.get("commits", []):
        noted["commits"] = [*noted.get("commits", []), commit]
        folder.write_json(folder.environment, noted)


def experts(problem: MergeProblem) -> list[Candidate]:
    """The experts as candidates."""
    depth = problem.pool.num_layers
    return [Candidate.whole(name, depth) for name in problem.pool.expert_names]


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
    for task, value in zip(problem.objectives, best, strict=True):
        if value <= 0:
            raise InputError(
                f"no expert scores above zero on the test items of {task}",
                "give the task more test items, or drop it",
            )
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

"""One search in one run folder: what `hm3rl search` does, without the terminal."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hm3rl.agents.base import Agent
from hm3rl.config.compose import to_dict, to_yaml
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError, IntegrityError, MachineError
from hm3rl.evaluation.causes import blamed
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.events import LoggerGroup, RunLogger
from hm3rl.files import (
    PACKAGE,
    RunFolder,
    RunLock,
    check_name,
    checked_out,
    describe_environment,
    peak_memory,
    write_csv,
    write_text,
)
from hm3rl.merging.mergeability import mergeability
from hm3rl.paths.candidate import Candidate
from hm3rl.run.answers import collect
from hm3rl.run.build import build_problem, build_searcher, check_settings
from hm3rl.run.conclusion import (
    FrontRow,
    experts_on_test,
    front_table,
    further_scores,
    posterior_table,
    rescore_front,
    seconds,
    sources_of,
    summarise,
    watched_scores,
)
from hm3rl.run.references import score_references
from hm3rl.run.sources import reopen_problem
from hm3rl.run.watch import watch
from hm3rl.search.architecture_level import posterior
from hm3rl.tasks.isolation import check_isolation

LOG = logging.getLogger(__name__)

MakeLoggers = Callable[[RunFolder, RunSettings], Sequence[RunLogger]]


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
            self._watching = watch(settings, self.problem)
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
        references = score_references(problem)
        summary["references"] = {name: one.to_dict() for name, one in references.items()}
        tests = {**{row.name: row.test for row in front}, **tested.sources}
        summary["further"] = further_scores(tests, references)
        front, summary["watched"] = watched_scores(self._watching, problem, front, references)
        models = {row.name: row.candidate for row in front}
        folder.write_json(folder.answers, collect(problem, sources_of(problem), models))
        folder.mergeability.unlink(missing_ok=True)
        if len(problem.pool.mergeable) > 1:
            facts = mergeability(problem.members.task_vectors)
            folder.write_json(folder.mergeability, facts.to_dict())
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

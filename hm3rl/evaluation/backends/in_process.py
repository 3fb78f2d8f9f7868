"""The backend that computes here: merge, assemble, answer, score, many candidates at a time.

Generated programs run in other processes. A thread hands them over, so the model goes on meanwhile:
with the other tasks of the same candidates (those with programs come first), then with the next
candidates. Outcomes come out in order all the same.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from hm3rl.errors import HM3Error, InputError, MachineError
from hm3rl.evaluation.answers import Answers, answer_together
from hm3rl.evaluation.backends.base import Job, JobResult
from hm3rl.evaluation.backends.time_book import TimeBook
from hm3rl.evaluation.background import Background
from hm3rl.evaluation.causes import DeviceError, blamed
from hm3rl.evaluation.choices import choose
from hm3rl.evaluation.conditions import attention_suffix
from hm3rl.evaluation.harness import harness_scores
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.sharing import Sharing
from hm3rl.evaluation.stack import Stack
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Item, Split, Task
from hm3rl.tasks.harness import HarnessTask

LOGGER = logging.getLogger(__name__)

TOGETHER = 64
"""Most candidates computed together, unless told otherwise."""

FIRST = 8
"""Candidates computed together before it is known how long one takes."""

IN_FLIGHT_SECONDS = 60.0
"""So many candidates are computed together as are expected to be done by then."""

TEXTS = 1 << 16
"""Texts of answers that are remembered."""


@dataclass
class _Run:
    """A job on its way.

    Attributes:
        job: The job.
        number: Its place among those computed together.
        stack: The candidate's model; None before it is assembled.
        error: Traceback once it has failed.
        decoded: Items decoded so far.
        scores: See `JobResult`.
        nll: See `JobResult`.
        further: Means of secondary metrics by task and name.
    """

    job: Job
    number: int
    stack: Stack | None = None
    error: str | None = None
    decoded: int = 0
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    nll: dict[str, np.ndarray] = field(default_factory=dict)
    further: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run a block; its failure becomes this job's and nobody else's."""
        try:
            with blamed("merge, assemble or judge a candidate"):
                yield
        except HM3Error:
            raise  # the caller's mistake or the machine's, not the candidate's
        except Exception:  # of whatever type `causes` says is the candidate's
            self.error = traceback.format_exc()

    def outcome(self, seconds: dict[str, float]) -> JobResult:
        """What came of it."""
        if self.error is not None:
            return JobResult.failure(self.job.key, self.error, seconds)
        names = self.job.items  # the order of computing is another
        scores = {name: self.scores[name] for name in names}
        nll = {name: self.nll[name] for name in names}
        further = {name: self.further[name] for name in names} if self.job.secondary else None
        return JobResult(self.job.key, scores, nll, further, seconds, self.decoded)


class _Verdict(NamedTuple):
    """Scores of some texts as the task gives them, and its further metrics."""

    scores: list[float]
    further: dict[str, list[float]]


@dataclass(frozen=True)
class _Judged:
    """Texts of one job that a task judges in the background.

    Attributes:
        run: The job.
        request: The task and its items.
        given: Numbers of the items that have a text.
        verdict: Of those.
    """

    run: _Run
    request: Request
    given: list[int]
    verdict: Future[_Verdict]


@dataclass
class _Group:
    """Jobs computed together.

    Attributes:
        runs: The jobs.
        ledger: Their seconds.
        judged: What is still being judged.
        refusal: Why the job after these, or all from the first on, cannot be computed, or None.
    """

    runs: list[_Run]
    ledger: TimeBook
    judged: list[_Judged] = field(default_factory=list)
    refusal: HM3Error | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing is left to wait for, or nothing should be computed after it."""
        return self.refusal is not None or all(one.verdict.done() for one in self.judged)

    def cancel(self) -> None:
        """Judge no more of it."""
        for one in self.judged:
            one.verdict.cancel()


class InProcessBackend:
    """Scores candidates in this process, on the device that holds the sources.

    Args:
        members: The sources and merged members that candidates are made of.
        tasks: The tasks.
        batch_size: Most items in one forward pass; halved when memory runs out.
        together: Most candidates computed together. Their outcomes come out when all of them are
            done: so many are in flight, and lost if the process is killed (twice as many where
            programs run longer than the model). Slow candidates are therefore computed in smaller
            groups (`IN_FLIGHT_SECONDS`), which changes no score.
        sharing: How they share what they have in common.

    Raises:
        InputError: An option is out of range.
    """

    def __init__(
        self,
        members: MemberSet,
        tasks: Sequence[Task],
        batch_size: int = 256,
        together: int = TOGETHER,
        sharing: Sharing | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("together", together)):
            if value < 1:
                raise InputError(f"evaluation.{name}={value}", "give 1 or more")
        self.members = members
        self.pool = members.pool
        self.tasks = {task.name: task for task in tasks}
        self.batch_size = batch_size
        self.together = together
        self.sharing = Sharing() if sharing is None else sharing
        self.name = f"torch-{torch.device(self.pool.device).type}{attention_suffix(self.pool)}"
        self._requests: dict[tuple[str, Split], Request] = {}
        self._pace: float | None = None  # seconds a candidate of the last group took
        self._background = Background()
        self._texts: dict[tuple[int, ...], str] = {}

    def request(self, task: Task, split: Split) -> Request:
        """The encoded items of a task, built once."""
        if (task.name, split) not in self._requests:
            self._requests[task.name, split] = Request.build(
                task,
                split,
                self.pool.tokenizer,
                self.batch_size,
                self.pool.device,
                self.pool.max_positions,
            )
        return self._requests[task.name, split]

    def prepare(self, split: Split) -> None:
        """Encode all items of a split; see `Backend.prepare`."""
        for task in self.tasks.values():
            self.request(task, split)

    def score(self, jobs: Sequence[Job]) -> Generator[JobResult, None, None]:
        """Score candidates, up to `together` at a time; see `Backend.score`.

        What the machine failed to do is done once more, the next candidate alone; after a failure
        of the device nothing is, since the process cannot compute any more.
        """
        done, again = 0, False
        while done < len(jobs):
            try:
                with closing(self._score(jobs[done : done + 1] if again else jobs[done:])) as some:
                    for outcome in some:
                        yield outcome
                        done += 1
            except DeviceError:
                raise
            except MachineError as error:
                if again:
                    raise
                again = True
                LOGGER.warning("%s; trying once more", error)
            else:
                again = False

    def _score(self, jobs: Sequence[Job]) -> Generator[JobResult, None, None]:
        begun: deque[_Group] = deque()
        try:
            for some in self._groups(jobs):
                begun.append(self._compute(some))
                while begun and (len(begun) > 1 or begun[0].settled):
                    yield from self._finish(begun[0])
                    begun.popleft()
            for group in begun:
                yield from self._finish(group)
        finally:
            for group in begun:
                group.cancel()

    def close(self) -> None:
        """Nothing is held but memory."""

    def _groups(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Divide jobs, in order, as time and the cache of merged weights allow."""
        group: list[Job] = []
        parts: dict[tuple[str, int | None], int] = {}
        for job in jobs:
            own = self.members.merged_parts(job.candidate.path)
            more = parts | own
            if group and (
                len(group) >= self._at_once() or sum(more.values()) > self.members.cache_bytes
            ):
                yield group
                group, more = [], own
            group.append(job)
            parts = more
        if group:
            yield group

    def _at_once(self) -> int:
        """How many candidates are computed together now."""
        if self._pace is None:
            return min(self.together, FIRST)
        return max(1, min(self.together, int(IN_FLIGHT_SECONDS / max(self._pace, 1e-3))))

    def _compute(self, jobs: Sequence[Job]) -> _Group:
        """Do all that the model has to do for some jobs."""
        runs = [_Run(job, number) for number, job in enumerate(jobs)]
        group = _Group(runs, TimeBook(len(runs)))
        with group.ledger.running():
            for run in runs:
                try:
                    with run.alone():
                        run.stack = self._stack(run, group.ledger)
                except HM3Error as error:  # those before it are scored all the same
                    group.refusal, group.runs = error, runs[: run.number]
                    break
            try:
                with blamed("run the candidates' models"):
                    self._answer_all(group)
            except HM3Error as error:
                group.cancel()
                group.refusal, group.runs, group.judged = error, [], []
        for run in runs:
            run.stack = None  # the weights may go while programs are still running
        self._pace = group.ledger.pace
        return group

    def _answer_all(self, group: _Group) -> None:
        """Run the tasks, those first whose texts are judged while the model goes on."""
        names = dict.fromkeys(name for run in group.runs for name in run.job.items)
        for name in sorted(names, key=lambda name: not self.tasks[name].judged_elsewhere):
            alike: dict[Hashable, list[_Run]] = {}
            for run in group.runs:
                job = run.job
                if run.error is None and name in job.items:
                    key = (job.split, job.items[name], job.decode, job.secondary)
                    alike.setdefault(key, []).append(run)
            for some in alike.values():
                self._answer(name, some, group)

    def _finish(self, group: _Group) -> Iterator[JobResult]:
        """Wait for the verdicts on a group's programs, and hand its outcomes out."""
        ledger = group.ledger
        with ledger.running():
            if group.judged:
                with ledger.part("programs", range(len(group.runs))):
                    wait([one.verdict for one in group.judged])
            for one in group.judged:
                with one.run.alone():
                    self._take(one.run, one.request, one.given, one.verdict.result())
        self._pace = ledger.pace
        seconds = ledger.close()
        for run in group.runs:
            yield run.outcome(seconds[run.number])
        if group.refusal is not None:
            raise group.refusal

    def _stack(self, run: _Run, ledger: TimeBook) -> Stack:
        candidate = run.job.candidate
        with ledger.part("merging", [run.number]):
            self.members.admit(candidate)
            for part in self.members.merged_parts(candidate.path):
                self.members.merge_part(*part)
        with ledger.part("assembly", [run.number]):
            return Stack.of_candidate(candidate, assemble(candidate, self.members))

    def _answer(self, name: str, runs: Sequence[_Run], group: _Group) -> None:
        """Run one task for jobs that ask for the same items of it.

        Of what the lm-evaluation-harness scores, only the references' likelihoods are computed
        together; its requests are its own affair, one candidate at a time.
        """
        job = runs[0].job
        numbers = job.items[name]
        request = self.request(self.tasks[name], job.split)
        if len(numbers) < len(request.items):
            request = request.part(numbers)
        by_harness = job.decode and isinstance(request.task, HarnessTask)
        decode = job.decode and not by_harness and not request.task.chooses
        with group.ledger.part("model", [run.number for run in runs]):
            found = answer_together(
                [run.stack for run in runs if run.stack is not None],
                request,
                self.pool.tokenizer,
                all_texts=job.secondary and decode,
                decode=decode,
                sharing=self.sharing,
            )
        for run, answers in zip(runs, found, strict=True):
            if isinstance(answers, str):
                run.error = answers
                continue
            run.decoded += answers.decoded
            if not request.task.chooses:
                run.nll[name] = answers.nll[list(numbers)]
            with run.alone():
                if request.task.chooses:
                    chosen = choose(request, answers.nll, numbers)
                    run.nll[name] = chosen.nll
                    run.scores[name] = _directed(request.task, chosen.scores)
                    run.further[name] = {k: float(v.mean()) for k, v in chosen.further.items()}
                elif by_harness:
                    run.scores[name], run.further[name] = self._by_harness(
                        request, run, group.ledger
                    )
                elif job.decode:
                    self._judge(request, answers, run, group)
                else:
                    exact = np.array([ids is not None for ids in answers.tokens], np.float64)
                    run.scores[name] = exact[list(numbers)]

    def _by_harness(
        self, request: Request, run: _Run, ledger: TimeBook
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Scores of the job's items of a task of the lm-evaluation-harness, and further means."""
        task, stack = request.task, run.stack
        assert isinstance(task, HarnessTask) and stack is not None
        items = [request.items[number] for number in run.job.items[task.name]]
        with ledger.part("model", [run.number]):
            tokenizer = self.pool.tokenizer
            scores, further = harness_scores(stack.model, tokenizer, task, items, self.batch_size)
        return _directed(task, scores), {name: float(v.mean()) for name, v in further.items()}

    def _text(self, ids: tuple[int, ...]) -> str:
        """The text of an answer; most candidates give many of the same answers."""
        text = self._texts.get(ids)
        if text is None:
            if len(self._texts) >= TEXTS:
                self._texts.clear()
            # Not batch_decode: given no rows, transformers answers with one empty text.
            text = str(
                self.pool.tokenizer.decode(
                    list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            self._texts[ids] = text
        return text

    def _judge(self, request: Request, answers: Answers, run: _Run, group: _Group) -> None:
        """Let the task judge the texts of a job, here or in the background."""
        task, numbers = request.task, run.job.items[request.task.name]
        tokens = {n: ids for n in numbers if (ids := answers.tokens[n]) is not None}
        texts = [self._text(tuple(ids)) for ids in tokens.values()]
        asked = [request.items[number] for number in tokens]
        judge = partial(_verdict, task, asked, texts, run.job.secondary)
        if task.judged_elsewhere:
            verdict = self._background.submit(judge)
            group.judged.append(_Judged(run, request, list(tokens), verdict))
            return
        with group.ledger.part("programs", [run.number]):
            found = judge()
        self._take(run, request, list(tokens), found)

    def _take(self, run: _Run, request: Request, given: list[int], verdict: _Verdict) -> None:
        """Take down the scores of a job's items; what has no text scores 0."""
        task = request.task
        scores = np.zeros(len(request.items))
        scores[given] = verdict.scores
        run.scores[task.name] = _directed(task, scores)[list(run.job.items[task.name])]
        run.further[task.name] = {key: float(np.mean(v)) for key, v in verdict.further.items()}


def _verdict(task: Task, items: Sequence[Item], texts: Sequence[str], secondary: bool) -> _Verdict:
    return _Verdict(task.score(items, texts), task.secondary(items, texts) if secondary else {})


def _directed(task: Task, scores: np.ndarray) -> np.ndarray:
    """Scores with higher as better; refused outside [0, 1]."""
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"task {task.name!r} gave scores outside [0, 1]")
    return 1.0 - scores if task.direction == "minimise" else scores

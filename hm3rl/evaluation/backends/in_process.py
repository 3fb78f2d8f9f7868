"""The backend that computes here: merge, assemble, answer, score, many candidates at a time."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from hm3rl.errors import HM3Error, InputError
from hm3rl.evaluation.answers import Answers, answer_together
from hm3rl.evaluation.backends.base import Job, Outcome
from hm3rl.evaluation.backends.ledger import Ledger
from hm3rl.evaluation.harness import harness_scores
from hm3rl.evaluation.memory import is_out_of_memory, too_little_memory
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.sharing import Sharing
from hm3rl.evaluation.stack import Stack
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split, Task
from hm3rl.tasks.harness import HarnessTask

TOGETHER = 64
"""Most candidates computed together, unless told otherwise."""

FIRST = 8
"""Candidates computed together before it is known how long one takes."""

IN_FLIGHT_SECONDS = 60.0
"""So many candidates are computed together as are expected to be done by then."""


@dataclass
class _Run:
    """A job on its way.

    Attributes:
        job: The job.
        number: Its place among those computed together.
        stack: The candidate's model; None before it is assembled.
        error: Traceback once it has failed.
        decoded: Items decoded so far.
        scores: See `Outcome`.
        nll: See `Outcome`.
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
            yield
        except HM3Error:
            raise  # the caller's mistake or the machine's, not the candidate's
        except Exception as error:
            if is_out_of_memory(error):  # never the candidate's failure
                raise too_little_memory("merge, assemble or judge a candidate") from error
            self.error = traceback.format_exc()

    def outcome(self, seconds: dict[str, float]) -> Outcome:
        """What came of it."""
        if self.error is not None:
            return Outcome.failure(self.job.key, self.error, seconds)
        further = self.further if self.job.secondary else None
        return Outcome(self.job.key, self.scores, self.nll, further, seconds, self.decoded)


class InProcessBackend:
    """Scores candidates in this process, on the device that holds the sources.

    Args:
        members: The sources and merged members that candidates are made of.
        tasks: The tasks.
        batch_size: Most items in one forward pass; halved when memory runs out.
        together: Most candidates computed together. Their outcomes come out when all of them are
            done: so many are in flight, and lost if the process is killed. Slow candidates are
            therefore computed in smaller groups (`IN_FLIGHT_SECONDS`), which changes no score.
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
        self.name = f"torch-{torch.device(self.pool.device).type}"
        self._requests: dict[tuple[str, Split], Request] = {}
        self._pace: float | None = None  # seconds a candidate of the last group took

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

    def score(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Score candidates, up to `together` at a time; see `Backend.score`."""
        for group in self._groups(jobs):
            yield from self._score(group)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _groups(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Divide jobs, in order, as time and the cache of merged weights allow."""
        base = self.pool.model(self.pool.base_name)
        most = self.members.cache_bytes // sum(weight.nbytes for weight in base.parameters())
        group: list[Job] = []
        merges: set[MergeRecipe] = set()
        for job in jobs:
            more = merges.union(job.candidate.recipes)
            if group and (len(group) >= self._at_once() or len(more) > max(1, most)):
                yield group
                group, more = [], set(job.candidate.recipes)
            group.append(job)
            merges = more
        if group:
            yield group

    def _at_once(self) -> int:
        """How many candidates are computed together now."""
        if self._pace is None:
            return min(self.together, FIRST)
        return max(1, min(self.together, int(IN_FLIGHT_SECONDS / max(self._pace, 1e-3))))

    def _score(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        runs = [_Run(job, number) for number, job in enumerate(jobs)]
        ledger = Ledger(len(runs))
        refusal: HM3Error | None = None
        for run in runs:
            try:
                with run.alone():
                    run.stack = self._stack(run, ledger)
            except HM3Error as error:
                refusal, runs = error, runs[: run.number]  # those before it are scored all the same
                break
        for name in dict.fromkeys(name for run in runs for name in run.job.items):
            alike: dict[Hashable, list[_Run]] = {}
            for run in runs:
                job = run.job
                if run.error is None and name in job.items:
                    key = (job.split, job.items[name], job.decode, job.secondary)
                    alike.setdefault(key, []).append(run)
            for group in alike.values():
                self._answer(name, group, ledger)
        seconds = ledger.close()
        self._pace = sum(sum(parts.values()) for parts in seconds) / len(seconds)
        for run in runs:
            yield run.outcome(seconds[run.number])
        if refusal is not None:
            raise refusal

    def _stack(self, run: _Run, ledger: Ledger) -> Stack:
        candidate = run.job.candidate
        with ledger.part("merging", [run.number]):
            for recipe in candidate.recipes:
                self.members.model(self.members.add(recipe))
        with ledger.part("assembly", [run.number]):
            return Stack.of_candidate(candidate, assemble(candidate, self.members))

    def _answer(self, name: str, runs: Sequence[_Run], ledger: Ledger) -> None:
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
        with ledger.part("model", [run.number for run in runs]):
            found = answer_together(
                [run.stack for run in runs if run.stack is not None],
                request,
                self.pool.tokenizer,
                all_texts=job.secondary and not by_harness,
                decode=job.decode and not by_harness,
                sharing=self.sharing,
            )
        for run, answers in zip(runs, found, strict=True):
            if isinstance(answers, str):
                run.error = answers
                continue
            run.decoded += answers.decoded
            run.nll[name] = answers.nll[list(numbers)]
            with run.alone():
                if by_harness:
                    run.scores[name], run.further[name] = self._by_harness(request, run, ledger), {}
                    continue
                run.scores[name], run.further[name] = self._judge(request, answers, run, ledger)

    def _by_harness(self, request: Request, run: _Run, ledger: Ledger) -> np.ndarray:
        """Scores of the job's items of a task of the lm-evaluation-harness."""
        task, stack = request.task, run.stack
        assert isinstance(task, HarnessTask) and stack is not None
        items = [request.items[number] for number in run.job.items[task.name]]
        with ledger.part("model", [run.number]):
            tokenizer = self.pool.tokenizer
            scores = harness_scores(stack.model, tokenizer, task, items, self.batch_size)
        return _directed(task, scores)

    def _judge(
        self, request: Request, answers: Answers, run: _Run, ledger: Ledger
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Scores of the job's items, and the means of secondary metrics."""
        task, job = request.task, run.job
        numbers: Collection[int] = job.items[task.name]
        tokens = {n: ids for n in numbers if (ids := answers.tokens[n]) is not None}
        given = list(tokens)
        scores = np.zeros(len(request.items))
        if not job.decode:
            scores[given] = 1.0  # what greedy decoding answers with the reference
            return scores[list(numbers)], {}
        # Not batch_decode: given no rows, transformers answers with one empty text.
        texts = [
            str(
                self.pool.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            for ids in tokens.values()
        ]
        asked = [request.items[number] for number in given]
        with ledger.part("programs", [run.number]):
            scores[given] = task.score(asked, texts)
            extra = task.secondary(asked, texts) if job.secondary else {}
        scores = _directed(task, scores)
        means = {name: float(np.mean(values)) for name, values in extra.items()}
        return scores[list(numbers)], means


def _directed(task: Task, scores: np.ndarray) -> np.ndarray:
    """Scores with higher as better; refused outside [0, 1]."""
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"task {task.name!r} gave scores outside [0, 1]")
    return 1.0 - scores if task.direction == "minimise" else scores

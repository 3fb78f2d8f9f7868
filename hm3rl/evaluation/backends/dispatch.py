"""Hands jobs to workers that may die, and outcomes on in the order of the jobs.

Every worker has one portion of jobs in hand and one waiting, so it does not idle while outcomes
travel. Outcomes are buffered until it is their turn. When a worker dies, the portion it had in hand
is under suspicion and its jobs are tried again one at a time elsewhere; those that were only
waiting are innocent. So is a worker replaced in which the machine failed otherwise. A job that was
in hand three times ends the call: nobody knows whether it or the machine is the cause, so it is no
failure, and going on without it would be another search.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from hm3rl.errors import HM3Error, MachineError
from hm3rl.evaluation.backends.base import Job, JobResult

DEADLY = 3
"""Deaths, of one job or in a row while starting, after which no more workers are tried."""

IN_FLIGHT = 2
"""Portions a worker has at a time: one in hand, one waiting."""

PORTIONS = 3
"""Portions per worker that jobs are divided into: small ones balance better, large ones share
more of the computing between candidates."""

LARGEST = 16
"""Most jobs in a portion: what is in hand is lost when a worker dies."""


class WorkerDied(Exception):
    """A worker is gone; the text says what is known of its end."""


class Reply(NamedTuple):
    """What a worker answers to a portion.

    Attributes:
        outcomes: Of the jobs in order, up to one that was refused.
        refusal: Why the next one was refused, the caller's mistake or the machine's; or None.
    """

    outcomes: list[JobResult]
    refusal: HM3Error | None = None


class WorkerPool(Protocol):
    """Workers, somewhere. Futures stand for replies to come; a worker gives them in order."""

    size: int

    def start(self) -> Any:
        """Start a worker and return its handle."""
        ...

    def load(self, worker: Any) -> Hashable:
        """Let a worker load the sources; returns the future of a reply without outcomes."""
        ...

    def stop(self, worker: Any) -> None:
        """End a worker."""
        ...

    def submit(self, worker: Any, jobs: Sequence[Job]) -> Hashable:
        """Give a worker some jobs; returns the future of its reply."""
        ...

    def wait(self, futures: Sequence[Hashable]) -> Hashable:
        """Wait until one of the futures can be redeemed, and return it."""
        ...

    def redeem(self, future: Any) -> Reply:
        """Return a reply.

        Raises:
            WorkerDied: It will never come.
        """
        ...


@dataclass
class _Portion:
    """Jobs given to a worker, by their places in the call; `call` is None for the loading."""

    future: Hashable
    call: int | None
    places: tuple[int, ...] = ()


@dataclass(eq=False)
class _Worker:
    handle: Any
    portions: deque[_Portion] = field(default_factory=deque)


class Dispatcher:
    """Scores jobs with a pool.

    Args:
        pool: The workers; as many as its size are hired when they are first needed.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self._workers: list[_Worker] = []
        self._calls = 0
        self._failed_starts = 0

    def score(self, jobs: Sequence[Job]) -> Generator[JobResult, None, None]:
        """Score jobs; see `Backend.score`. One call at a time; an abandoned one is forgotten."""
        if not jobs:
            return
        self._calls += 1
        call = _Call(self._calls, jobs)
        call.divide(self.pool.size)
        for place in range(len(jobs)):
            while place not in call.outcomes:
                if place in call.refusals:
                    raise call.refusals[place]
                self._assign(call)
                self._collect(call)
            yield call.outcomes.pop(place)

    def _assign(self, call: _Call) -> None:
        """Keep every worker busy, those with the least to do first."""
        while len(self._workers) < self.pool.size:
            worker = _Worker(self.pool.start())
            worker.portions.append(_Portion(self.pool.load(worker.handle), None))
            self._workers.append(worker)
        while call.waiting:
            worker = min(self._workers, key=lambda w: len(w.portions))
            if len(worker.portions) >= IN_FLIGHT:
                return
            places = call.waiting.popleft()
            future = self.pool.submit(worker.handle, [call.jobs[place] for place in places])
            worker.portions.append(_Portion(future, call.number, places))

    def _collect(self, call: _Call) -> None:
        """Wait for one reply, or for the death of a worker."""
        owner = {p.future: worker for worker in self._workers for p in worker.portions}
        worker = owner[self.pool.wait(list(owner))]
        portion = worker.portions[0]  # a worker answers in order
        try:
            reply = self.pool.redeem(portion.future)
        except WorkerDied as death:
            self._reap(worker, str(death), call)
            return
        if isinstance(reply.refusal, MachineError):
            self.pool.stop(worker.handle)  # it may be harmed for good: a fresh one takes over
            if portion.call == call.number:
                call.take(portion.places, Reply(reply.outcomes))
            left = portion.places[len(reply.outcomes) :]
            if portion.call == call.number and left[1:]:
                call.give_back([left[1:]])
            worker.portions[0] = _Portion(portion.future, portion.call, left[:1])
            self._reap(worker, str(reply.refusal), call)
            return
        worker.portions.popleft()
        if portion.call is None:
            if reply.refusal is not None:
                raise reply.refusal
            self._failed_starts = 0
        elif portion.call == call.number:
            call.take(portion.places, reply)

    def _reap(self, worker: _Worker, reason: str, call: _Call) -> None:
        """Take a dead worker's jobs back; the first portion not answered was in its hands."""
        self._workers.remove(worker)
        in_hand, *others = worker.portions
        for portion in others:
            if portion.call == call.number:
                call.give_back([portion.places])
        if in_hand.call is None:
            self._failed_starts += 1
            if self._failed_starts >= DEADLY:
                raise MachineError(
                    f"{DEADLY} workers in a row died while loading the sources: {_line(reason)}\n"
                    "  -> check the memory of the machine; fewer workers need less of it "
                    "(evaluation.workers)"
                )
        elif in_hand.call == call.number:
            call.suspect(in_hand.places, reason)


class _Call:
    """The state of one call of `Dispatcher.score`."""

    def __init__(self, number: int, jobs: Sequence[Job]) -> None:
        self.number = number
        self.jobs = jobs
        self.waiting: deque[tuple[int, ...]] = deque()
        self.outcomes: dict[int, JobResult] = {}
        self.refusals: dict[int, HM3Error] = {}
        self._deaths: dict[int, list[str]] = {}

    def divide(self, workers: int) -> None:
        """Put all jobs into portions of neighbours, which have most in common."""
        size = min(math.ceil(len(self.jobs) / (workers * PORTIONS)), LARGEST)
        starts = range(0, len(self.jobs), size)
        self.waiting.extend(tuple(range(s, min(s + size, len(self.jobs)))) for s in starts)

    def take(self, places: Sequence[int], reply: Reply) -> None:
        """Note a reply."""
        self.outcomes.update(zip(places, reply.outcomes, strict=False))
        if reply.refusal is not None:
            self.refusals[places[len(reply.outcomes)]] = reply.refusal

    def give_back(self, portions: Sequence[tuple[int, ...]]) -> None:
        """Let portions wait again, before later ones."""
        self.waiting = deque(sorted([*self.waiting, *portions]))

    def suspect(self, places: Sequence[int], reason: str) -> None:
        """Note that a worker died of one of these jobs, or with them in hand."""
        again = []
        for place in places:
            deaths = self._deaths.setdefault(place, [])
            deaths.append(reason)
            if len(deaths) < DEADLY:
                again.append((place,))
                continue
            self.refusals[place] = MachineError(
                f"{len(deaths)} workers died or failed while they scored the candidate "
                f"{self.jobs[place].candidate.path}: {_line(reason)}"
            )
        self.give_back(again)


def _line(reason: str) -> str:
    """What is known of a worker's end, in one line."""
    return " ".join(reason.split())

"""Order, balance, deaths and refusals, with workers that exist in this test only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hm3rl.errors import InputError, MachineError
from hm3rl.evaluation.backends.base import Job, JobResult
from hm3rl.evaluation.backends.dispatch import DEADLY, IN_FLIGHT, Dispatcher, Reply, WorkerDied
from hm3rl.paths import Candidate

SOMETHING = Candidate.whole("a", 3)


class FakeCrew:
    """Workers that score by a rule and die by a rule; the order in which they finish is drawn.

    Args:
        size: Workers.
        dies: Whether the worker that runs a job dies of it; called once per run.
        seed: Of the order.
    """

    def __init__(self, size: int, dies: Callable[[str], bool] = lambda _: False, seed: int = 0):
        self.size = size
        self.dies = dies
        self.rng = np.random.default_rng(seed)
        self.hired = 0
        self.runs: list[str] = []
        self.most_waiting = 0
        self.dead: set[int] = set()
        self.fails: Callable[[str], bool] = lambda _: False
        self.queues: dict[int, list[tuple[int, Sequence[Job] | None]]] = {}
        self.replies: dict[int, Reply | WorkerDied] = {}
        self.owner: dict[int, int] = {}
        self.load_reply: Callable[[], Reply | WorkerDied] = lambda: Reply([])

    def start(self) -> int:
        self.hired += 1
        self.queues[self.hired] = []
        return self.hired

    def load(self, worker: Any) -> Hashable:
        return self._enqueue(worker, None)

    def stop(self, worker: Any) -> None:
        self.dead.add(worker)
        for waiting, _ in self.queues[worker]:
            self.replies[waiting] = WorkerDied("dismissed")

    def submit(self, worker: Any, jobs: Sequence[Job]) -> Hashable:
        return self._enqueue(worker, jobs)

    def _enqueue(self, worker: int, jobs: Sequence[Job] | None) -> int:
        future = len(self.owner)
        self.owner[future] = worker
        self.queues[worker].append((future, jobs))
        waiting = [jobs for _, jobs in self.queues[worker] if jobs is not None]
        self.most_waiting = max(self.most_waiting, len(waiting))
        return future

    def wait(self, futures: Sequence[Hashable]) -> Hashable:
        workers = sorted({self.owner[t] for t in futures if isinstance(t, int)})
        worker = int(self.rng.choice(workers))
        if self.queues[worker] and worker not in self.dead:
            self._run(worker)
        return max(t for t in futures if isinstance(t, int) and self.owner[t] == worker)

    def _run(self, worker: int) -> None:
        future, jobs = self.queues[worker].pop(0)
        if jobs is None:
            self._answer(worker, future, self.load_reply())
            return
        outcomes = []
        for job in jobs:
            self.runs.append(job.key)
            if self.dies(job.key):
                self._answer(worker, future, WorkerDied(f"worker {worker} vanished"))
                return
            if self.fails(job.key):
                self._answer(worker, future, Reply(outcomes, MachineError("disk full")))
                return
            if job.key.startswith("refused"):
                self._answer(worker, future, Reply(outcomes, InputError(job.key, "mend it")))
                return
            outcomes.append(JobResult(job.key, {}, {}, None, {}))
        self._answer(worker, future, Reply(outcomes))

    def _answer(self, worker: int, future: int, reply: Reply | WorkerDied) -> None:
        self.replies[future] = reply
        if isinstance(reply, WorkerDied):
            self.dead.add(worker)
            for waiting, _ in self.queues[worker]:
                self.replies[waiting] = reply

    def redeem(self, future: Any) -> Reply:
        while future not in self.replies:  # as Ray does: wait until it is there
            self._run(self.owner[future])
        reply = self.replies[future]
        if isinstance(reply, WorkerDied):
            raise reply
        return reply


def jobs(*keys: str) -> list[Job]:
    return [Job(key, SOMETHING, "search", {"t": (0,)}) for key in keys]


@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_job_is_run_once_and_answered_in_order(size: int, count: int, seed: int) -> None:
    pool = FakeCrew(size, seed=seed)
    keys = [f"k{n}" for n in range(count)]
    outcomes = list(Dispatcher(pool).score(jobs(*keys)))
    assert [o.key for o in outcomes] == keys and all(o.error is None for o in outcomes)
    assert sorted(pool.runs) == sorted(keys) and pool.hired == size
    assert pool.most_waiting <= IN_FLIGHT


@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 10**6), st.floats(0.0, 0.2))
@settings(max_examples=60, deadline=None)
def test_random_deaths_change_no_answer(size: int, count: int, seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    deaths: dict[str, int] = {}

    def dies(key: str) -> bool:
        if deaths.get(key, 0) < DEADLY - 2 and rng.random() < rate:
            deaths[key] = deaths.get(key, 0) + 1
            return True
        return False

    # A job shares one more death at most: that of the portion it was in first.
    pool = FakeCrew(size, dies, seed)
    keys = [f"k{n}" for n in range(count)]
    outcomes = list(Dispatcher(pool).score(jobs(*keys)))
    assert [o.key for o in outcomes] == keys and all(o.error is None for o in outcomes)
    assert len(pool.dead) == sum(deaths.values())
    assert size <= pool.hired <= size + len(pool.dead)


@pytest.mark.parametrize("size", [1, 3])
def test_a_job_that_kills_three_workers_is_no_failure_and_nothing_goes_on_without_it(
    size: int,
) -> None:
    pool = FakeCrew(size, lambda key: key == "killer")
    before = [f"k{n}" for n in range(20)]
    stream = Dispatcher(pool).score(jobs(*before, "killer", *(f"l{n}" for n in range(20))))
    assert [next(stream).key for _ in before] == before
    with pytest.raises(MachineError, match=r"3 workers died or failed .* vanished"):
        next(stream)
    assert pool.runs.count("killer") == DEADLY == len(pool.dead)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("failures", [1, 9])
def test_a_job_the_machine_failed_is_tried_again_in_a_fresh_worker(
    size: int, failures: int
) -> None:
    pool = FakeCrew(size)
    pool.fails = lambda key: key == "k5" and pool.runs.count("k5") <= failures
    keys = [f"k{n}" for n in range(30)]
    stream = Dispatcher(pool).score(jobs(*keys))
    if failures == 1:
        assert [outcome.key for outcome in stream] == keys
        assert pool.runs.count("k5") == 2 and len(pool.dead) == 1 and pool.hired == size + 1
        assert all(pool.runs.count(key) == 1 for key in keys[:5])
    else:
        assert [next(stream).key for _ in range(5)] == keys[:5]
        with pytest.raises(MachineError, match="disk full"):
            next(stream)
        assert pool.runs.count("k5") == DEADLY


def test_what_only_waited_for_a_dead_worker_is_innocent() -> None:
    pool = FakeCrew(1, lambda key: key == "k0" and pool.runs.count("k0") < DEADLY)
    outcomes = list(Dispatcher(pool).score(jobs("k0", "k1", "k2")))  # a portion each
    assert all(o.error is None for o in outcomes)
    assert pool.runs.count("k0") == DEADLY and pool.runs.count("k1") == 1


def test_what_is_refused_is_raised_in_its_turn() -> None:
    pool = FakeCrew(2)
    stream = Dispatcher(pool).score(jobs("a", "b", "c", "refused d", "e", "f", "g"))
    assert [next(stream).key for _ in range(3)] == ["a", "b", "c"]
    with pytest.raises(InputError, match="refused d") as caught:
        next(stream)
    assert caught.value.remedy == "mend it"


def test_a_call_that_was_given_up_leaves_nothing_behind() -> None:
    pool = FakeCrew(2)
    dispatcher = Dispatcher(pool)
    first = dispatcher.score(jobs(*(f"a{n}" for n in range(12))))
    next(first)
    first.close()
    again = list(dispatcher.score(jobs(*(f"b{n}" for n in range(5)))))
    assert [o.key for o in again] == [f"b{n}" for n in range(5)]
    assert pool.hired == 2


def test_workers_that_cannot_load_end_the_search_and_are_no_candidates_failure() -> None:
    pool = FakeCrew(2)
    pool.load_reply = lambda: WorkerDied("killed")
    with pytest.raises(MachineError, match="died while loading the sources: killed"):
        list(Dispatcher(pool).score(jobs("a")))
    assert pool.runs == []
    pool = FakeCrew(1)
    pool.load_reply = lambda: Reply([], InputError("other weights", "copy them"))
    with pytest.raises(InputError, match="other weights"):
        list(Dispatcher(pool).score(jobs("a")))


def test_no_job_needs_no_worker() -> None:
    pool = FakeCrew(2)
    assert list(Dispatcher(pool).score([])) == [] and pool.hired == 0

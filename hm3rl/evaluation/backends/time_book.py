"""Whose time it was: seconds by job and part, also of what several jobs do together."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from hm3rl.evaluation.backends.base import PARTS


class TimeBook:
    """Books seconds to jobs that run together.

    Time spent for several jobs is divided equally among them; what no part claims is "other".
    Only time inside of `running` counts, so that jobs whose programs are still running can be left
    for others in between.

    Args:
        jobs: Number of jobs.
    """

    def __init__(self, jobs: int) -> None:
        self._seconds = [dict.fromkeys(PARTS, 0.0) for _ in range(jobs)]
        self._spent = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time a block that works for these jobs and no others."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - begin

    @contextmanager
    def part(self, name: str, jobs: Collection[int]) -> Iterator[None]:
        """Time a block, within `running`, that serves the jobs of these numbers."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            share = (time.perf_counter() - begin) / max(1, len(jobs))
            for job in jobs:
                self._seconds[job][name] += share

    @property
    def pace(self) -> float:
        """Seconds spent so far, per job."""
        return self._spent / max(1, len(self._seconds))

    def close(self) -> list[dict[str, float]]:
        """Divide what no part claimed among all jobs; return seconds by part of each."""
        booked = sum(sum(seconds.values()) for seconds in self._seconds)
        for seconds in self._seconds:
            seconds["other"] += max(0.0, self._spent - booked) / len(self._seconds)
        return self._seconds

"""What a worker process does: load the sources once, check them, score what it is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import torch

from hm3rl.errors import HM3Error, InputError
from hm3rl.evaluation.backends.base import Job, JobResult
from hm3rl.evaluation.backends.dispatch import Reply
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.causes import blamed
from hm3rl.evaluation.conditions import scored_suite


def identity(backend: InProcessBackend) -> dict[str, str]:
    """What a backend computes with: two that agree in this give the same scores.

    Returns:
        Content hashes of sources and task suites, precision and kind of device, by name.
    """
    pool, tasks = backend.pool, tuple(backend.tasks.values())
    sources = {f"the source {name}": digest for name, digest in pool.hashes.items()}
    suites = {
        f"the {split} items": scored_suite(tasks, split, pool.tokenizer)
        for split in ("search", "test")
    }
    return {**sources, **suites, "precision": str(pool.dtype), "backend": backend.name}


class ScoringWorker:
    """Scores jobs in a process of its own.

    Args:
        make: Loads sources and tasks and returns the backend that scores here.
        expected: `identity` of the driver's backend.
        threads: Threads of torch.
        folder: The driver's working folder, which relative paths refer to.
    """

    def __init__(
        self,
        make: Callable[[], InProcessBackend],
        expected: Mapping[str, str],
        threads: int,
        folder: str,
    ) -> None:
        self._make = make
        self._expected = dict(expected)
        self._threads = threads
        self._folder = folder
        self._backend: InProcessBackend | None = None

    def load(self) -> Reply:
        """Load and compare; a reply with a refusal if this worker would compute something else."""
        if os.path.isdir(self._folder):  # on another machine it need not exist
            os.chdir(self._folder)
        try:
            with blamed("load the sources"):
                backend = self._make()
            torch.set_num_threads(self._threads)
            self._compare(identity(backend))
        except HM3Error as error:
            return Reply([], error)
        self._backend = backend
        return Reply([])

    def score(self, jobs: Sequence[Job]) -> Reply:
        """Score jobs up to the first that is refused."""
        assert self._backend is not None, "load() comes first"
        outcomes: list[JobResult] = []
        try:
            with blamed("score candidates"):
                outcomes.extend(self._backend.score(jobs))
        except HM3Error as error:
            return Reply(outcomes, error)
        return Reply(outcomes)

    def _compare(self, mine: Mapping[str, str]) -> None:
        """Refuse to compute with other things than the driver.

        Raises:
            InputError: Names them and this machine.
        """
        other = [what for what in self._expected if mine.get(what) != self._expected[what]]
        if other:
            raise InputError(
                f"the worker on {os.uname().nodename} would score with other data than the search: "
                f"{', '.join(other)} differ",
                "give all machines the same models, data files and version of hm3rl",
            )

"""What every backend is: it computes the scores of jobs and knows nothing of stores and budgets."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hm3rl.paths.candidate import Candidate
from hm3rl.tasks.base import Split

PARTS = ("merging", "assembly", "model", "programs", "other")
"""Where an evaluation's seconds go. `programs` is the tasks' scoring of texts, and of programs the
time in which the model had nothing to do but wait for them."""


@dataclass(frozen=True)
class Job:
    """One candidate to be scored on some items.

    Attributes:
        key: Content hash of the candidate.
        candidate: The candidate.
        split: Split the items are of.
        items: By task, the numbers of the items to run, ascending.
        decode: Whether answers are generated where need be. Without, one teacher-forced pass
            decides: an item scores 1 if greedy decoding gives its reference, else 0.
        secondary: Whether the tasks' secondary metrics are needed, over the items run; needs
            `decode`.
    """

    key: str
    candidate: Candidate
    split: Split
    items: Mapping[str, tuple[int, ...]]
    decode: bool = True
    secondary: bool = False


@dataclass(frozen=True)
class JobResult:
    """What came of a job.

    Attributes:
        key: Content hash of the candidate.
        scores: By task, one score in [0, 1] per item of the job, higher is better (a task to be
            minimised enters as 1 - score); empty if failed.
        nll: The same for the reference's negative log-likelihood per token, in nats.
        secondary: Mean of further metrics by task and name; None if they were not asked for.
        seconds: Seconds by part, see `PARTS`.
        decoded: Items that were decoded.
        error: Traceback if the candidate failed, by its own fault (`causes`), else None.
    """

    key: str
    scores: Mapping[str, np.ndarray]
    nll: Mapping[str, np.ndarray]
    secondary: Mapping[str, Mapping[str, float]] | None
    seconds: Mapping[str, float]
    decoded: int = 0
    error: str | None = None

    @classmethod
    def failure(cls, key: str, error: str, seconds: Mapping[str, float]) -> JobResult:
        """Record that a candidate failed."""
        return cls(key, {}, {}, None, seconds, error=error)


class Backend(Protocol):
    """Computes scores.

    Attributes:
        name: What computes, as far as scores depend on it, such as "torch-cpu"; part of the
            condition under which an evaluation is stored.
    """

    name: str

    def prepare(self, split: Split) -> None:
        """Encode all items of a split, so that bad ones are refused before long work.

        Raises:
            InputError: An item does not fit the models.
        """
        ...

    def score(self, jobs: Sequence[Job]) -> Generator[JobResult, None, None]:
        """Score candidates.

        Args:
            jobs: Different candidates.

        Yields:
            One outcome per job, in order, each as soon as it and all before it exist. A candidate
            that fails does so alone, with its traceback in the outcome.

        Raises:
            MachineError: Something outside the candidate failed, and did again.
            HM3Error: The caller's mistake.
        """
        ...

    def close(self) -> None:
        """Give back what is held (processes); a later job takes it again."""
        ...

"""What a task is: items in fixed splits, a metric per item, and what one generation must produce.

A task owns its items and knows how to score decoded generations. It never runs a model: the
evaluation room does, and the code task is handed a `ProgramRunner` to execute programs with.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hm3rl.config.tasks import ZOO_SPLIT, SplitSettings

Split = Literal["train", "search", "test"]
SPLITS: tuple[Split, ...] = ("train", "search", "test")


def split_of(task: str, prompt: str, shares: SplitSettings = ZOO_SPLIT) -> Split:
    """Return the split a prompt belongs to, decided by its hash alone.

    A larger share for the search takes prompts from the test and leaves it those it had.

    Args:
        task: Name of the task.
        prompt: The full prompt text.
        shares: Percentages of the splits.
    """
    digest = hashlib.sha256(f"{task}\0{prompt}".encode()).hexdigest()
    bucket = int(digest[:8], 16) % 100
    if bucket < shares.search:
        return "search"
    return "test" if bucket < shares.search + shares.test else "train"


def version_of(shares: SplitSettings) -> str:
    """What shares add to the version of a task: nothing, if they are those that all tasks had."""
    return "" if shares == ZOO_SPLIT else f"+split {shares}"


@dataclass(frozen=True)
class Item:
    """One question with its reference answer.

    Attributes:
        task: Name of the task the item belongs to.
        prompt: Full text given to the model, already in the model's prompt format.
        reference: Answer text; the model must produce it and then the end-of-sequence token.
        payload: Metric data; for code, pairs (expression, expected repr) used as unit tests.
        choices: Continuations of the prompt, the reference among them, of which a model takes the
            one it finds likeliest; empty: it answers in its own words.
    """

    task: str
    prompt: str
    reference: str
    payload: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """First 16 hex digits of the SHA-256 of everything the item holds."""
        parts = [self.task, self.prompt, self.reference, repr(self.payload)]
        if self.choices:  # keys of other items are older than choices
            parts.append(repr(self.choices))
        text = "\0".join(parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Task(ABC):
    """A scored skill with disjoint search and test items.

    Attributes:
        name: Name used in preferences, tables and stores.
        metric: Name of the metric, e.g. "exact_match", "pass_at_1" or "chrf".
        direction: Whether higher or lower scores are better.
        worst: What a score of 1 is in units, for a reader, where lower is better.
        unit: What is counted then; empty for an error rate.
        max_new_tokens: Decoding limit that every reference, with its end token, stays within.
        exact_only: Anything but the reference scores 0, so one teacher-forced pass decides.
        chooses: All items have choices: likelihoods decide, and nothing is generated.
        judged_elsewhere: Scoring mostly waits for other processes. It is then done in a thread of
            its own while the model goes on, one candidate after the other.
        version: Changes whenever items or scoring change; part of every cache key.
        runner: Executes generated programs for it; None if it runs none. What locks them up is
            checked before anything is scored.
    """

    name: str
    metric: str
    direction: Literal["maximise", "minimise"] = "maximise"
    worst: float = 1.0
    unit: str = ""
    max_new_tokens: int
    exact_only: bool
    chooses: bool = False
    judged_elsewhere: bool = False
    version: str
    runner: ProgramRunner | None = None

    @abstractmethod
    def items(self, split: Split) -> tuple[Item, ...]:
        """Return the items of a split, always the same ones in the same order."""

    @abstractmethod
    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score decoded greedy generations.

        Args:
            items: The items that were asked.
            outputs: One generation per item, special tokens removed.

        Returns:
            One score in [0, 1] per item.
        """

    def secondary(self, items: Sequence[Item], outputs: Sequence[str]) -> dict[str, list[float]]:
        """Return further metrics reported beside the score, per item and in [0, 1]."""
        return {}

    def choose(self, item: Item, likelihoods: Sequence[float]) -> dict[str, int]:
        """Which choice of an item a model takes; it scores 1 if that is the reference, else 0.

        Args:
            item: An item with choices.
            likelihoods: Log-likelihood of each choice as a continuation of the prompt, in nats.

        Returns:
            The place of the choice by metric: that of the task, and any that are reported beside.
        """
        return {self.metric: likelihoods.index(max(likelihoods))}

    def notes(self) -> dict[str, str]:
        """What a reader should know about how this machine scores the task, by subject."""
        return {} if self.runner is None else {"programs": self.runner.describe()}


class ProgramRunner(Protocol):
    """Executes generated programs against unit tests, in limited processes.

    Attributes:
        limits: What can decide a score, as a suffix of a task's version; empty: the defaults.
    """

    @property
    def limits(self) -> str:
        """See the class."""

    def describe(self) -> str:
        """What locks programs up here, for a reader."""

    def check(self) -> None:
        """Refuse to run programs if they are locked up worse than required.

        Raises:
            InputError: They are.
        """

    def run(
        self, programs: Sequence[str], tests: Sequence[tuple[tuple[str, str], ...]]
    ) -> list[float]:
        """Run each program against its tests.

        Args:
            programs: Python sources.
            tests: Per program, pairs (expression to evaluate, expected repr).

        Returns:
            Per program 1.0 if all its tests pass, else 0.0.

        Raises:
            MachineError: Something other than the programs failed.
        """

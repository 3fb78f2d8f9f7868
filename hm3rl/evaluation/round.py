"""One request to the evaluator: what the store knows, what another process computes, what is left.

Evaluations are handed out in the order asked and committed before that. Of processes that share a
store each claims what it is about to compute. Claims are made for a whole request at once and never
while waiting, so two processes cannot wait for each other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

import numpy as np

from hm3rl.errors import HM3Error
from hm3rl.evaluation.backends.base import Backend, Job, JobResult
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore, ItemScores
from hm3rl.paths.candidate import Candidate

POLL_SECONDS = 0.05
"""How often to look for an evaluation that another process is computing."""


@dataclass
class Totals:
    """What an evaluator has done since it was made.

    Attributes:
        computed: Candidates scored.
        hits: Candidates the store knew.
        failures: Candidates whose scoring failed.
        items: Items that were run, of all candidates.
        decoded: Items that were decoded, of all candidates.
        seconds: Seconds by part, of the candidates scored.
    """

    computed: int = 0
    hits: int = 0
    failures: int = 0
    items: int = 0
    decoded: int = 0
    seconds: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Scored:
    """An evaluation and whether it came out of the store."""

    evaluation: Evaluation
    cached: bool


class Round:
    """Scores some candidates under one condition.

    Args:
        store: Where evaluations are kept.
        backend: What computes.
        totals: Counts what is done.
        condition: Under what to score.
        items: Numbers of the items asked, by task.
        secondary: Whether secondary metrics are needed.
    """

    def __init__(
        self,
        store: EvaluationStore,
        backend: Backend,
        totals: Totals,
        condition: Condition,
        items: Mapping[str, tuple[int, ...]],
        secondary: bool,
    ) -> None:
        self.store = store
        self.backend = backend
        self.totals = totals
        self.condition = condition
        self.items = items
        self.secondary = secondary
        self._candidates: dict[str, Candidate] = {}
        self._known: dict[str, Evaluation] = {}
        self._partly: dict[str, dict[str, ItemScores]] = {}
        self._claimed: dict[str, None] = {}  # in order, not committed yet
        self._fresh: set[str] = set()  # committed by this round, not handed out yet

    def stream(self, keys: Sequence[str], candidates: Sequence[Candidate]) -> Iterator[Scored]:
        """Score candidates, repeats possible; yields one evaluation for each, in order."""
        self._candidates = dict(zip(keys, candidates, strict=True))
        self._look_up(self._candidates)
        self._claim([key for key in self._candidates if key not in self._known])
        jobs = [self._job(key) for key in self._claimed]
        try:
            with closing(self.backend.score(jobs)) as outcomes:
                for key in keys:
                    if key not in self._known and key in self._claimed:
                        self._commit(next(outcomes))
                    elif key not in self._known:
                        for outcome in outcomes:  # instead of waiting idly
                            self._commit(outcome)
                        self._wait_for(key)
                    cached = key not in self._fresh
                    self._fresh.discard(key)
                    self.totals.hits += cached
                    yield Scored(self._known[key], cached)
        finally:
            if self._claimed:
                # What could not be computed or stored is what the caller must hear of; a claim
                # ends with this process anyway.
                with suppress(HM3Error):
                    self.store.release(self._claimed, self.condition)

    def stored(self, keys: Sequence[str], candidates: Sequence[Candidate]) -> dict[str, Evaluation]:
        """What the store knows of candidates, by key; nothing is scored."""
        self._candidates = dict(zip(keys, candidates, strict=True))
        self._look_up(self._candidates)
        return dict(self._known)

    def _look_up(self, keys: Iterable[str]) -> None:
        """Learn what the store knows: evaluations, and items of other fidelities."""
        wanted = list(keys)
        self._known.update(
            (key, evaluation)
            for key, evaluation in self.store.get(wanted, self.condition).items()
            if evaluation.settled
            and (not self.secondary or evaluation.secondary is not None or not evaluation.ok)
        )
        missing = [key for key in wanted if key not in self._known]
        if not missing or self.secondary:  # those metrics are means over all texts
            return
        self._partly.update(self.store.items(missing, self.condition))
        for key in missing:
            if key in self._partly and not self._job(key).items:
                self._known[key] = self._evaluation(key, {})

    def _claim(self, keys: Sequence[str]) -> None:
        """Claim what nobody else computes; it may have been stored by the time it is claimed."""
        if not keys:
            return
        claimed = self.store.claim(keys, self.condition)
        self._look_up(claimed)
        found = [key for key in claimed if key in self._known]
        if found:
            self.store.release(found, self.condition)
        self._claimed.update((key, None) for key in claimed if key not in self._known)

    def _wait_for(self, key: str) -> None:
        """Wait until another process has stored an evaluation; compute it if it gives up."""
        while key not in self._known:
            self._look_up([key])
            if key not in self._known:
                self._claim([key])
            if key in self._claimed:
                with closing(self.backend.score([self._job(key)])) as outcomes:
                    self._commit(next(outcomes))
            elif key not in self._known:
                time.sleep(POLL_SECONDS)

    def _job(self, key: str) -> Job:
        """The items of a candidate that are not known."""
        partly = self._partly.get(key, {})
        items = {}
        for task, numbers in self.items.items():
            there = set(partly[task].items.tolist()) if task in partly else set()
            left = tuple(number for number in numbers if number not in there)
            if left:
                items[task] = left
        return Job(
            key,
            self._candidates[key],
            self.condition.split,
            items,
            decode=self.condition.measure == "full",
            secondary=self.secondary,
        )

    def _commit(self, outcome: JobResult) -> None:
        """Turn an outcome into an evaluation that is in the store."""
        key, totals = outcome.key, self.totals
        if outcome.error is None:
            job = self._job(key)
            new = {
                task: ItemScores(np.array(numbers), outcome.scores[task], outcome.nll[task])
                for task, numbers in job.items.items()
            }
            evaluation = self._evaluation(key, new, outcome)
            totals.items += sum(map(len, job.items.values()))
        else:
            evaluation = Evaluation.failure(
                key,
                self.condition.split,
                tuple(self.items),
                outcome.error,
                outcome.seconds,
                self.condition.fidelity,
            )
            totals.failures += 1
        self.store.put(evaluation, self._candidates[key].to_dict(), self.condition)
        self._known[key] = evaluation
        self._fresh.add(key)
        del self._claimed[key]
        totals.computed += 1
        totals.decoded += outcome.decoded
        totals.seconds.update(outcome.seconds)

    def _evaluation(
        self, key: str, new: Mapping[str, ItemScores], outcome: JobResult | None = None
    ) -> Evaluation:
        """Put new items and those known before together."""
        partly = self._partly.get(key, {})
        asked = {
            task: ItemScores.joined([part[task] for part in (partly, new) if task in part]).of(
                numbers
            )
            for task, numbers in self.items.items()
        }
        return Evaluation.of_items(
            key,
            self.condition.split,
            {task: part.scores for task, part in asked.items()},
            {task: part.nll for task, part in asked.items()},
            None if outcome is None else outcome.secondary,
            {} if outcome is None else outcome.seconds,
            {task: part.items for task, part in asked.items()},
            self.condition.fidelity,
        )

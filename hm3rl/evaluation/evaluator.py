"""The evaluator: the only way in the package to the score of a model.

It knows what has been scored and commits what is new; the computing is a backend's business.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hm3rl.errors import InputError
from hm3rl.evaluation.backends.base import Backend, Job, Outcome
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split, Task
from hm3rl.tasks.suite import check_tasks, suite_version

SCORER_VERSION = "scorer-1"
"""Part of every suite's version; changes when a score could come out differently."""


@dataclass
class Totals:
    """What an evaluator has done since it was made.

    Attributes:
        computed: Candidates scored.
        hits: Candidates the store knew.
        failures: Candidates whose scoring failed.
        decoded: Items that were decoded, of all candidates.
        seconds: Seconds by part, of the candidates scored.
        lookup_seconds: Seconds for keys and the store.
    """

    computed: int = 0
    hits: int = 0
    failures: int = 0
    decoded: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    lookup_seconds: float = 0.0


@dataclass(frozen=True)
class Scored:
    """An evaluation and whether it came out of the store."""

    evaluation: Evaluation
    cached: bool


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what a tokenizer does, 16 hex digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    text += repr((tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.all_special_ids))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Evaluator:
    """Scores candidates on tasks; asks the store first and commits every result at once.

    Args:
        members: The sources and merged members that candidates are made of.
        tasks: The tasks, in the order of all score vectors.
        store: Where evaluations are kept.
        batch_size: Most items in one forward pass, for the backend in this process.
        backend: What computes; None: this process.

    Raises:
        InputError: The tasks cannot be scored.
    """

    def __init__(
        self,
        members: MemberSet,
        tasks: Sequence[Task],
        store: EvaluationStore,
        batch_size: int = 256,
        backend: Backend | None = None,
    ) -> None:
        self.members = members
        self.pool = members.pool
        self.tasks = check_tasks(tasks)
        self.store = store
        if backend is None:
            backend = InProcessBackend(members, self.tasks, batch_size)
        self.backend = backend
        self.totals = Totals()
        self._fingerprint = tokenizer_fingerprint(self.pool.tokenizer)
        self._conditions: dict[Split, Condition] = {}

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(task.name for task in self.tasks)

    def key(self, candidate: Candidate) -> str:
        """Content hash of a candidate."""
        return candidate.key(self.pool.hashes)

    def condition(self, split: Split) -> Condition:
        """Under what this evaluator scores; with the candidate's key it names an evaluation."""
        if split not in self._conditions:
            self._conditions[split] = Condition(
                suite=suite_version(self.tasks, split, self._fingerprint, SCORER_VERSION),
                split=split,
                dtype=str(self.pool.dtype).removeprefix("torch."),
                backend=self.backend.name,
            )
        return self._conditions[split]

    def prepare(self, split: Split) -> None:
        """Encode all items of a split, so that bad ones are refused before long work.

        Raises:
            InputError: An item does not fit the models.
        """
        self.backend.prepare(split)

    def evaluate(
        self,
        candidates: Sequence[Candidate],
        split: Split = "search",
        fidelity: str = FULL,
        secondary: bool = False,
    ) -> list[Evaluation]:
        """Score candidates.

        Args:
            candidates: Candidates, repeats possible.
            split: Split of the items.
            fidelity: "full".
            secondary: Whether the tasks' secondary metrics are needed, too.

        Returns:
            One evaluation per candidate, in order; each is in the store already.

        Raises:
            InputError: Unknown fidelity, or a candidate that cannot exist.
        """
        scored = self.stream(candidates, split, fidelity, secondary)
        return [one.evaluation for one in scored]

    def stream(
        self,
        candidates: Sequence[Candidate],
        split: Split = "search",
        fidelity: str = FULL,
        secondary: bool = False,
    ) -> Iterator[Scored]:
        """Score candidates one after the other, in order; see `evaluate`."""
        if fidelity != FULL:
            raise InputError(f"unknown fidelity {fidelity!r}", f"the only one is {FULL!r}")
        begin = time.perf_counter()
        condition = self.condition(split)
        keys = [self.key(candidate) for candidate in candidates]
        known = {
            key: evaluation
            for key, evaluation in self.store.get(keys, condition).items()
            if not secondary or evaluation.secondary is not None or not evaluation.ok
        }
        items = {task.name: tuple(range(len(task.items(split)))) for task in self.tasks}
        fresh = {
            key: Job(key, candidate, split, items, secondary=secondary)
            for key, candidate in zip(keys, candidates, strict=True)
            if key not in known
        }
        self.totals.lookup_seconds += time.perf_counter() - begin
        with closing(self.backend.score(list(fresh.values()))) as outcomes:
            for key, candidate in zip(keys, candidates, strict=True):
                cached = key in known
                if cached:
                    self.totals.hits += 1
                else:
                    known[key] = self._commit(next(outcomes), candidate, condition)
                yield Scored(known[key], cached)

    def close(self) -> None:
        """Close the backend; the store stays open."""
        self.backend.close()

    def _commit(self, outcome: Outcome, candidate: Candidate, condition: Condition) -> Evaluation:
        """Turn an outcome into an evaluation that is in the store."""
        begin = time.perf_counter()
        key, split, seconds = outcome.key, condition.split, outcome.seconds
        if outcome.error is None:
            evaluation = Evaluation.of_items(
                key, split, outcome.scores, outcome.nll, outcome.secondary, seconds
            )
        else:
            evaluation = Evaluation.failure(key, split, self.objectives, outcome.error, seconds)
            self.totals.failures += 1
        self.store.put(evaluation, candidate.to_dict(), condition)
        self.totals.lookup_seconds += time.perf_counter() - begin
        self.totals.computed += 1
        self.totals.decoded += outcome.decoded
        self.totals.seconds.update(seconds)
        return evaluation

"""The evaluator: the only place in the package that scores a model."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hm3rl.errors import HM3Error, InputError
from hm3rl.evaluation.answers import answer, is_out_of_memory
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.result import FULL, Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split, Task
from hm3rl.tasks.suite import check_tasks, suite_version

SCORER_VERSION = "scorer-1"
"""Part of every suite's version; changes when a score could come out differently."""

PARTS = ("merging", "assembly", "model", "programs", "other")
"""Where an evaluation's seconds go; `programs` is the tasks' scoring of texts and programs."""


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


class Clock:
    """Sums seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._begin = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def stop(self) -> dict[str, float]:
        """Book the rest since the start under "other"; return seconds by part."""
        spent = time.perf_counter() - self._begin
        self.seconds["other"] = spent - sum(s for p, s in self.seconds.items() if p != "other")
        return self.seconds


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
        batch_size: Most items in one forward pass; halved when memory runs out.

    Raises:
        InputError: The tasks cannot be scored.
    """

    def __init__(
        self,
        members: MemberSet,
        tasks: Sequence[Task],
        store: EvaluationStore,
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"evaluation.batch_size={batch_size}", "give 1 or more")
        self.members = members
        self.pool = members.pool
        self.tasks = check_tasks(tasks)
        self.store = store
        self.batch_size = batch_size
        self.totals = Totals()
        self._fingerprint = tokenizer_fingerprint(self.pool.tokenizer)
        self._requests: dict[tuple[str, Split], Request] = {}
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
                backend=f"torch-{torch.device(self.pool.device).type}",
            )
        return self._conditions[split]

    def request(self, task: Task, split: Split) -> Request:
        """The encoded items of a task, built once."""
        if (task.name, split) not in self._requests:
            self._requests[task.name, split] = Request.build(
                task,
                split,
                self.pool.tokenizer,
                self.batch_size,
                self.pool.device,
                getattr(self.pool.config, "max_position_embeddings", None),
            )
        return self._requests[task.name, split]

    def prepare(self, split: Split) -> None:
        """Encode all items of a split, so that bad ones are refused before long work.

        Raises:
            InputError: An item does not fit the models.
        """
        for task in self.tasks:
            self.request(task, split)

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
        self.totals.lookup_seconds += time.perf_counter() - begin
        for key, candidate in zip(keys, candidates, strict=True):
            cached = key in known
            if not cached:
                known[key] = self._score_and_store(key, candidate, condition, secondary)
            else:
                self.totals.hits += 1
            yield Scored(known[key], cached)

    def _score_and_store(
        self, key: str, candidate: Candidate, condition: Condition, secondary: bool
    ) -> Evaluation:
        clock = Clock()
        try:
            evaluation = self._score(key, candidate, condition.split, secondary, clock)
        except HM3Error:
            raise  # the caller's mistake or the machine's, not the candidate's
        except Exception as error:
            if is_out_of_memory(error):
                raise
            evaluation = Evaluation.failure(
                key, condition.split, self.objectives, traceback.format_exc(), clock.stop()
            )
            self.totals.failures += 1
        begin = time.perf_counter()
        self.store.put(evaluation, candidate.to_dict(), condition)
        self.totals.lookup_seconds += time.perf_counter() - begin
        self.totals.computed += 1
        self.totals.seconds.update(evaluation.seconds)
        return evaluation

    def _score(
        self, key: str, candidate: Candidate, split: Split, secondary: bool, clock: Clock
    ) -> Evaluation:
        with clock.part("merging"):
            for recipe in candidate.recipes:
                self.members.model(self.members.add(recipe))
        with clock.part("assembly"):
            model = assemble(candidate, self.members)
        per_item: dict[str, np.ndarray] = {}
        nll: dict[str, np.ndarray] = {}
        further: dict[str, dict[str, float]] = {}
        for task in self.tasks:
            request = self.request(task, split)
            per_item[task.name], nll[task.name], extra = self._score_task(
                model, request, secondary, clock
            )
            further[task.name] = extra
        return Evaluation.of_items(
            key, split, per_item, nll, further if secondary else None, clock.stop()
        )

    def _score_task(
        self, model: PreTrainedModel, request: Request, secondary: bool, clock: Clock
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        task, items = request.task, request.items
        with clock.part("model"):
            answers = answer(model, request, self.pool.tokenizer, self.batch_size, secondary)
        self.totals.decoded += answers.decoded
        given = [number for number, ids in enumerate(answers.tokens) if ids is not None]
        # Not batch_decode: given no rows, transformers answers with one empty text.
        texts = [
            str(
                self.pool.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            for ids in answers.tokens
            if ids is not None
        ]
        scores = np.zeros(len(items))
        asked = [items[number] for number in given]
        with clock.part("programs"):
            scores[given] = task.score(asked, texts)
            extra = task.secondary(asked, texts) if secondary else {}
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError(f"task {task.name!r} gave scores outside [0, 1]")
        if task.direction == "minimise":
            scores = 1.0 - scores
        return scores, answers.nll, {name: float(np.mean(v)) for name, v in extra.items()}

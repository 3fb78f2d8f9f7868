"""The backend that computes here: merge, assemble, answer, score, one candidate after the other."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from hm3rl.errors import HM3Error, InputError
from hm3rl.evaluation.answers import Answers, answer, is_out_of_memory
from hm3rl.evaluation.backends.base import Clock, Job, Outcome
from hm3rl.evaluation.requests import Request
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split, Task


class InProcessBackend:
    """Scores candidates in this process, on the device that holds the sources.

    Args:
        members: The sources and merged members that candidates are made of.
        tasks: The tasks.
        batch_size: Most items in one forward pass; halved when memory runs out.

    Raises:
        InputError: The batch size is below 1.
    """

    def __init__(self, members: MemberSet, tasks: Sequence[Task], batch_size: int = 256) -> None:
        if batch_size < 1:
            raise InputError(f"evaluation.batch_size={batch_size}", "give 1 or more")
        self.members = members
        self.pool = members.pool
        self.tasks = {task.name: task for task in tasks}
        self.batch_size = batch_size
        self.name = f"torch-{torch.device(self.pool.device).type}"
        self._requests: dict[tuple[str, Split], Request] = {}

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
        """Encode all items of a split; see `Backend.prepare`."""
        for task in self.tasks.values():
            self.request(task, split)

    def score(self, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
        """Score candidates one after the other; see `Backend.score`."""
        for job in jobs:
            yield self._guarded(job)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _guarded(self, job: Job) -> Outcome:
        """Score one candidate; its own failure becomes an outcome."""
        clock = Clock()
        try:
            return self._score(job, clock)
        except HM3Error:
            raise  # the caller's mistake or the machine's, not the candidate's
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return Outcome.failure(job.key, traceback.format_exc(), clock.stop())

    def _score(self, job: Job, clock: Clock) -> Outcome:
        with clock.part("merging"):
            for recipe in job.candidate.recipes:
                self.members.model(self.members.add(recipe))
        with clock.part("assembly"):
            model = assemble(job.candidate, self.members)
        scores: dict[str, np.ndarray] = {}
        nll: dict[str, np.ndarray] = {}
        further: dict[str, dict[str, float]] = {}
        decoded = 0
        for name, numbers in job.items.items():
            request = self.request(self.tasks[name], job.split)
            if len(numbers) < len(request.items):
                request = request.part(numbers)
            answers = self._answer(model, request, job, clock)
            decoded += answers.decoded
            scores[name], further[name] = self._judge(request, numbers, answers, job, clock)
            nll[name] = answers.nll[list(numbers)]
        secondary = further if job.secondary else None
        return Outcome(job.key, scores, nll, secondary, clock.stop(), decoded)

    def _answer(self, model: PreTrainedModel, request: Request, job: Job, clock: Clock) -> Answers:
        with clock.part("model"):
            return answer(
                model,
                request,
                self.pool.tokenizer,
                self.batch_size,
                all_texts=job.secondary,
                decode=job.decode,
            )

    def _judge(
        self, request: Request, numbers: Sequence[int], answers: Answers, job: Job, clock: Clock
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Scores of the items `numbers`, and the means of secondary metrics."""
        task = request.task
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
        with clock.part("programs"):
            scores[given] = task.score(asked, texts)
            extra = task.secondary(asked, texts) if job.secondary else {}
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError(f"task {task.name!r} gave scores outside [0, 1]")
        if task.direction == "minimise":
            scores = 1.0 - scores
        means = {name: float(np.mean(values)) for name, values in extra.items()}
        return scores[list(numbers)], means

"""What models answer, in words: prompt, reference, answer and verdict of a few items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hm3rl.evaluation.answers import answer_together
from hm3rl.evaluation.choices import choose
from hm3rl.evaluation.harness import harness_answers
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.stack import Stack
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Item, Split, Task
from hm3rl.tasks.harness import HarnessTask


class Answered(NamedTuple):
    """What one model says to one item.

    Attributes:
        item: The item.
        text: The answer; of a multiple choice the continuation that is most likely.
        score: Its score by the task's metric, in [0, 1].
    """

    item: Item
    text: str
    score: float


class Answerer:
    """Lets models answer the first items of each task, as they are decoded when they are scored.

    Args:
        members: The sources and merged members that candidates are made of.
        tasks: The tasks.
        split: Split of the items.
        count: Most items of each task.
        batch_size: Most items in one forward pass.
    """

    def __init__(
        self,
        members: MemberSet,
        tasks: Sequence[Task],
        split: Split,
        count: int,
        batch_size: int = 256,
    ) -> None:
        self.members, self.batch_size = members, batch_size
        pool = members.pool
        self.requests = {
            task.name: Request.build(
                task, split, pool.tokenizer, batch_size, pool.device, pool.max_positions
            ).part(range(min(count, len(task.items(split)))))
            for task in tasks
        }
        self.count = count

    def items(self, task: str) -> tuple[Item, ...]:
        """The items of a task that are asked."""
        return self.requests[task].items[: self.count]

    def answers(self, candidate: Candidate) -> dict[str, list[Answered]]:
        """Let a model answer.

        Returns:
            Its answers by task, in the order of the items.

        Raises:
            RuntimeError: It puts out no finite numbers, or breaks.
        """
        self.members.admit(candidate)
        for part in self.members.merged_parts(candidate.path):
            self.members.merge_part(*part)
        stack = Stack.of_candidate(candidate, assemble(candidate, self.members))
        return {name: self._answers(stack, request) for name, request in self.requests.items()}

    def _answers(self, stack: Stack, request: Request) -> list[Answered]:
        task, tokenizer = request.task, self.members.pool.tokenizer
        items = list(self.items(task.name))
        if isinstance(task, HarnessTask):
            judged, _, said = harness_answers(stack.model, tokenizer, task, items, self.batch_size)
            return [Answered(*row) for row in zip(items, said, judged.tolist(), strict=True)]
        (found,) = answer_together(
            [stack], request, tokenizer, all_texts=True, decode=not task.chooses
        )
        if isinstance(found, str):
            raise RuntimeError(f"the model does not answer {task.name}:\n{found}")
        if task.chooses:
            chosen = choose(request, found.nll, range(len(items)))
            rows = zip(items, chosen.texts, chosen.scores.tolist(), strict=True)
            return [Answered(*row) for row in rows]
        texts = [
            str(
                tokenizer.decode(
                    ids or [], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            for ids in found.tokens[: len(items)]
        ]
        scores = task.score(items, texts)
        return [Answered(*row) for row in zip(items, texts, scores, strict=True)]

"""The length of answers, an objective to be minimised: how many tokens a task's answers take."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hm3rl.tasks.base import Item, Split, Task


class AnswerLengthTask(Task):
    """Tokens of the answers to another task's items, as a share of the most it allows.

    The objective of Evo-L2S (Iacobelli et al., "Multi-objective Evolutionary Merging Enables
    Efficient Reasoning Models", arXiv 2604.06465), here by item, so that it has a standard error.
    Tokens are those of the decoded text and the end token; an answer that runs into the limit
    counts as the limit. The items are decoded for it once more than for their own task.

    Args:
        name: Name of the objective.
        of: The task whose answers are counted.
        tokenizer: Counts.
    """

    metric = "answer_length"
    direction = "minimise"
    unit = "tokens"
    exact_only = False

    def __init__(self, name: str, of: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.of = of
        self.max_new_tokens = of.max_new_tokens
        self.worst = float(of.max_new_tokens)
        self.version = f"length-1 of {of.name} {of.version}"
        self._tokenizer = tokenizer

    def items(self, split: Split) -> tuple[Item, ...]:
        """The other task's items."""
        return self.of.items(split)

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Shares of the limit, in (0, 1], to be minimised; see `Task.score`."""
        if not outputs:
            return []
        encoded = self._tokenizer(list(outputs), add_special_tokens=False)["input_ids"]
        return [min(len(ids) + 1, self.max_new_tokens) / self.max_new_tokens for ids in encoded]

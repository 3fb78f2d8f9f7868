"""The calibration batch: what alignments are fitted on, and units are compared by."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hm3rl.evaluation.requests import encode
from hm3rl.paths.statistics import Calibration
from hm3rl.tasks.base import Task

MATCHING_ITEMS = 256
"""Items, of all tasks together, on which the activations of units are compared."""


def calibration_batch(
    tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, items: int, device: str
) -> Calibration:
    """Take items of all tasks in turn: training items, each prompt with its reference.

    A task without training items lends prompts of its search items, without their references: what
    is fitted must not know the answers that candidates are scored by. Which items is decided by
    their hash, so more items contain fewer.

    Args:
        tasks: The tasks.
        tokenizer: The models' tokenizer.
        items: How many, over all tasks.
        device: Where the models are.

    Returns:
        The batch.
    """
    queues = []
    for task in tasks:
        train = task.items("train")
        found = sorted(train or task.items("search"), key=lambda item: item.key)
        queues.append([(item, bool(train)) for item in found])
    turns = max(len(queue) for queue in queues)
    chosen = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    sequences = []
    for item, answered in chosen[:items]:
        ids = encode(item, tokenizer)
        # What a model is given when the item is scored: all but the end token.
        sequences.append((*ids.prompt, *(ids.answer[:-1] if answered else ())))
    return Calibration.of(sequences, device)

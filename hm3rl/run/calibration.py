"""The calibration batch of a search: training items, on which nothing is ever chosen."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from hm3rl.errors import InputError
from hm3rl.evaluation.requests import encode
from hm3rl.paths.statistics import Calibration
from hm3rl.tasks.base import Task


def calibration_batch(
    tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase, items: int, device: str
) -> Calibration:
    """Take training items of all tasks in turn, each prompt with its reference.

    Which ones is decided by the hash of the item, so more items contain fewer.

    Args:
        tasks: The tasks.
        tokenizer: The models' tokenizer.
        items: How many, over all tasks.
        device: Where the models are.

    Returns:
        The batch.

    Raises:
        InputError: A task has no training items.
    """
    queues = []
    for task in tasks:
        found = sorted(task.items("train"), key=lambda item: item.key)
        if not found:
            raise InputError(
                f"task {task.name!r} has no training items to align on",
                "give it more items (half of all prompts are for training), or set "
                "paths.alignment=none",
            )
        queues.append(found)
    turns = max(len(queue) for queue in queues)
    chosen = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    sequences = []
    for item in chosen[:items]:
        ids = encode(item, tokenizer)
        # What a model is given when the item is scored: all but the end token.
        sequences.append((*ids.prompt, *ids.answer[:-1]))
    return Calibration.of(sequences, device)

"""Greedy decoding of some items by one model, with no other candidate beside them.

The last digits of a matrix product depend on how many rows it has, so what an item answers could
depend on how many are decoded with it. Here it does not: items are decoded in batches of one fixed
shape (so many rows, prompts flush right in so many columns), filled up where there are fewer, and
no row is dropped before all have ended. In float32, where few items come here, the shape is one row
of the prompt's own length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from hm3rl.evaluation.requests import Encoded
from hm3rl.evaluation.scoring import InvalidLogitsError

ROWS = {torch.float32: 1}
"""Rows of a batch by precision: in float32 a lead is hardly ever too small to be trusted."""
ROWS_OTHER = 64
"""In lower precision many are, and a step of many rows reads the weights as often as one of one."""


def rows_apart(dtype: torch.dtype) -> int:
    """Rows of a batch that is decoded apart, in a precision."""
    return ROWS.get(dtype, ROWS_OTHER)


def without_end(answer: Sequence[int], ends: Collection[int]) -> list[int]:
    """Answer tokens, the last one left out if it is an end token."""
    return list(answer[:-1] if answer[-1] in ends else answer)


def decode_apart(
    model: PreTrainedModel,
    items: Sequence[Encoded],
    end_ids: Collection[int],
    max_new_tokens: int,
    rows: int,
    columns: int,
    settled: Callable[[int, Sequence[int]], bool] | None = None,
) -> list[list[int] | None]:
    """Decode items from their prompts as plain greedy generation does, in one fixed shape.

    Args:
        model: Any causal language model of transformers.
        items: At most `rows` items, one at least.
        end_ids: Tokens that end an answer.
        max_new_tokens: Most answer tokens, the end token included.
        rows: Rows of the batch; those without an item repeat the last one.
        columns: Columns of the prompts, no fewer than the longest has.
        settled: Asked with a row and its answer after each token: whether its text matters no more.

    Returns:
        Answer tokens of each item without the end token; None where it was settled before the end.

    Raises:
        InvalidLogitsError: A logit of an item is NaN or infinite.
    """
    prompts = [ids.prompt for ids in items] + [items[-1].prompt] * (rows - len(items))
    lengths = torch.tensor([[len(prompt)] for prompt in prompts], device=model.device)
    padded = [(0,) * (columns - len(prompt)) + prompt for prompt in prompts]
    tokens = torch.tensor(padded, device=model.device)
    mask = (torch.arange(columns, device=model.device) >= columns - lengths).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    # Without a configuration the cache keeps all columns; sliding windows are the masks' business.
    cache = DynamicCache()
    # The last column by its index: a slice is not contiguous, and for such a one torch copies the
    # head's weights once for each row.
    last = torch.tensor([-1], device=model.device)
    answers: list[list[int]] = [[] for _ in items]
    going = set(range(len(items)))
    dropped: set[int] = set()
    while going:
        logits = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=last,
        ).logits[:, -1]  # fmt: skip
        finite = torch.isfinite(logits).all(dim=-1).tolist()
        if not all(finite[row] for row in going):
            raise InvalidLogitsError
        tokens = logits.argmax(dim=-1, keepdim=True)
        for row, token in enumerate(tokens[: len(items), 0].tolist()):
            if row not in going:
                continue
            answer = answers[row]
            answer.append(token)
            if token in end_ids or len(answer) >= max_new_tokens:
                going.remove(row)
            elif settled is not None and settled(row, answer):
                going.remove(row)
                dropped.add(row)
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [
        None if row in dropped else without_end(answer, end_ids)
        for row, answer in enumerate(answers)
    ]

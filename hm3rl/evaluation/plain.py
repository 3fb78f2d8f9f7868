"""Greedy decoding of one item by one model, with nothing beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from hm3rl.evaluation.requests import Encoded
from hm3rl.evaluation.scoring import InvalidLogitsError


def without_end(answer: Sequence[int], ends: Collection[int]) -> list[int]:
    """Answer tokens, the last one left out if it is an end token."""
    return list(answer[:-1] if answer[-1] in ends else answer)


def decode_alone(
    model: PreTrainedModel, ids: Encoded, end_ids: Collection[int], max_new_tokens: int
) -> list[int]:
    """Decode one item from its prompt with nothing beside it, as plain greedy generation does.

    Args:
        model: Any causal language model of transformers.
        ids: The item.
        end_ids: Tokens that end an answer.
        max_new_tokens: Most answer tokens, the end token included.

    Returns:
        Answer tokens without the end token.

    Raises:
        InvalidLogitsError: A logit is NaN or infinite.
    """
    # Without a configuration the cache keeps all columns; sliding windows are the masks' business.
    cache = DynamicCache()
    answer: list[int] = []
    tokens = torch.tensor([ids.prompt], device=model.device)
    while not answer or (answer[-1] not in end_ids and len(answer) < max_new_tokens):
        mask = torch.ones(1, len(ids.prompt) + len(answer), dtype=torch.long, device=model.device)
        logits = model(
            input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        if not bool(torch.isfinite(logits).all()):
            raise InvalidLogitsError
        tokens = logits.argmax(dim=-1, keepdim=True)
        answer.append(int(tokens))
    return without_end(answer, end_ids)

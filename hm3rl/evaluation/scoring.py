"""One teacher-forced pass: how likely each reference is, and how far greedy decoding follows it.

Greedy decoding equals the reference if and only if every reference token, the end token included,
is the most likely one after those before it. Up to the first token that is not, greedy decoding has
gone through the very states of this pass, so generation can go on from there instead of starting
over. Both hold where the best token leads by more than the numerical error (trap T30).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from hm3rl.evaluation.requests import Batch

MARGIN = {torch.float32: 2e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Relative to the largest logit: smaller leads are within the error of another order of summing."""


class InvalidLogitsError(ArithmeticError):
    """A model put out NaN or infinite logits; that is a failure, not a score."""


@dataclass(frozen=True)
class ForcedBatch:
    """What a teacher-forced pass over a batch of B items says.

    Attributes:
        batch: The batch.
        nll: Mean negative log-likelihood per reference token, end token included, nats, shape (B,).
        agreed: Leading answer tokens that greedy decoding also picks, shape (B,).
        next_token: What it picks instead at the first disagreement, shape (B,); -1 if none.
        safe: Whether all leads up to there exceed the numerical error, shape (B,).
        first_token: What greedy decoding picks first, shape (B,).
        cache: Keys and values of all input columns, or None.
    """

    batch: Batch
    nll: torch.Tensor
    agreed: torch.Tensor
    next_token: torch.Tensor
    safe: torch.Tensor
    first_token: torch.Tensor
    cache: DynamicCache | None

    @property
    def exact(self) -> torch.Tensor:
        """Whether greedy decoding gives the reference and ends, shape (B,)."""
        return self.agreed == self.batch.answer_lengths


def check_finite(logits: torch.Tensor) -> None:
    """Refuse invalid logits.

    Raises:
        InvalidLogitsError: One is NaN or infinite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise InvalidLogitsError("the model puts out NaN or infinite logits")


def teacher_forced(
    model: PreTrainedModel, batch: Batch, end_ids: Collection[int], keep_cache: bool
) -> ForcedBatch:
    """Run a batch once and compare every answer token with the most likely one.

    Args:
        model: Any causal language model of transformers.
        batch: The items.
        end_ids: Tokens that end an answer; any of them counts as the reference's end token.
        keep_cache: Whether generation may follow.

    Returns:
        The comparison.

    Raises:
        InvalidLogitsError: A logit at an answer token is NaN or infinite.
    """
    # Without a configuration the cache keeps all columns of sliding-window layers as well, so that
    # any prefix can be cut out of it; the window is then the mask's business alone.
    cache = DynamicCache() if keep_cache else None
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        past_key_values=cache,
        use_cache=keep_cache,
        logits_to_keep=batch.predicting,
    ).logits.float()
    real = batch.targets >= 0
    flat = logits[real]
    check_finite(flat)
    targets = batch.targets[real]
    nll = torch.zeros(real.shape, dtype=torch.float32, device=flat.device)
    nll[real] = functional.cross_entropy(flat, targets, reduction="none")

    two = flat.topk(2, dim=-1)
    greedy = torch.full_like(batch.targets, -1)
    greedy[real] = two.indices[:, 0]
    same = greedy == batch.targets
    last = batch.answer_lengths - 1
    rows = torch.arange(len(batch.rows), device=flat.device)
    for end in end_ids:
        same[rows, last] |= greedy[rows, last] == end
    agreed = (same & real).long().cumprod(1).sum(1)

    error = MARGIN[model.dtype] * flat.abs().amax(dim=-1)
    wide = torch.ones_like(real)
    wide[real] = (two.values[:, 0] - two.values[:, 1]) > error
    columns = torch.arange(real.shape[1], device=flat.device)
    safe = (wide | (columns > agreed[:, None])).all(1)
    differs = agreed < batch.answer_lengths
    at = agreed.clamp(max=real.shape[1] - 1)
    next_token = torch.where(differs, greedy[rows, at], torch.full_like(at, -1))
    return ForcedBatch(
        batch=batch,
        nll=nll.sum(1) / batch.answer_lengths,
        agreed=agreed,
        next_token=next_token,
        safe=safe,
        first_token=greedy[:, 0],
        cache=cache,
    )

"""One teacher-forced pass: how likely each reference is, and how far greedy decoding follows it.

Greedy decoding equals the reference if and only if every reference token, the end token included,
is the most likely one after those before it. Up to the first token that is not, greedy decoding has
gone through the very states of this pass, so generation can go on from there instead of starting
over. Both hold where the best token leads by more than the numerical error (trap T30).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from hm3rl.evaluation.requests import Batch

MARGIN = {torch.float32: 2e-5, torch.float16: 2**-8, torch.bfloat16: 2**-5}
"""Relative to the largest logit: smaller leads are within the error of another order of summing.

In bfloat16 the leads of SmolLM2-135M in batches of 64 and alone differ by up to 0.030 (4603 answer
tokens, `python -m experiments.smollm2.leads --items 64`); float16 has three bits more."""


class InvalidLogitsError(ArithmeticError):
    """A model put out NaN or infinite logits; that is a failure, not a score."""

    def __init__(self) -> None:
        super().__init__("the model puts out NaN or infinite logits")


@dataclass(frozen=True)
class ForcedBatch:
    """What a teacher-forced pass over a batch of B items says.

    Attributes:
        batch: The batch.
        nll: Mean negative log-likelihood per reference token, end token included, nats, shape (B,).
        agreed: Leading answer tokens that greedy decoding also picks, shape (B,).
        next_token: What it picks instead at the first disagreement, shape (B,); -1 if none.
        safe: Whether all leads up to there exceed the numerical error, shape (B,).
    """

    batch: Batch
    nll: torch.Tensor
    agreed: torch.Tensor
    next_token: torch.Tensor
    safe: torch.Tensor

    @classmethod
    def joined(cls, batch: Batch, parts: Sequence[ForcedBatch]) -> ForcedBatch:
        """Put together what passes over the parts of a batch say, in its order."""
        names = ("nll", "agreed", "next_token", "safe")
        columns = [torch.cat([getattr(part, name) for part in parts]) for name in names]
        return cls(batch, *columns)

    @property
    def exact(self) -> torch.Tensor:
        """Whether greedy decoding gives the reference and ends, shape (B,)."""
        return self.agreed == self.batch.answer_lengths


class Lead(NamedTuple):
    """What greedy decoding picks for each of n rows of logits.

    Attributes:
        token: The most likely token, shape (n,).
        wide: Whether it leads by more than the numerical error, shape (n,).
        finite: Whether all logits of the row are finite, shape (n,).
    """

    token: torch.Tensor
    wide: torch.Tensor
    finite: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, dtype: torch.dtype) -> Lead:
        """Find the leads of logits of shape (n, vocabulary) computed in `dtype`."""
        two = logits.topk(2, dim=-1)
        # NaN counts as largest in both, so this is finite if and only if the whole row is.
        largest = torch.maximum(two.values[:, 0], -logits.amin(dim=-1))
        wide = (two.values[:, 0] - two.values[:, 1]) > MARGIN[dtype] * largest
        return cls(two.indices[:, 0], wide, torch.isfinite(largest))


def compare(
    logits: torch.Tensor, batch: Batch, end_ids: Collection[int], dtype: torch.dtype
) -> ForcedBatch:
    """Compare every answer token of a teacher-forced pass with the most likely one.

    Args:
        logits: Those that predict the answers (`Batch.predicting`), shape (B, R, vocabulary).
        batch: The items.
        end_ids: Tokens that end an answer; any of them counts as the reference's end token.
        dtype: Precision in which the logits were computed.

    Returns:
        The comparison.

    Raises:
        InvalidLogitsError: A logit at an answer token is NaN or infinite.
    """
    real = batch.targets >= 0
    flat = logits.float()[real]
    lead = Lead.of(flat, dtype)
    if not bool(lead.finite.all()):
        raise InvalidLogitsError
    targets = batch.targets[real]
    nll = torch.zeros(real.shape, dtype=torch.float32, device=flat.device)
    nll[real] = functional.cross_entropy(flat, targets, reduction="none")

    greedy = torch.full_like(batch.targets, -1)
    greedy[real] = lead.token
    same = greedy == batch.targets
    last = batch.answer_lengths - 1
    rows = torch.arange(len(batch.rows), device=flat.device)
    for end in end_ids:
        same[rows, last] |= greedy[rows, last] == end
    agreed = (same & real).long().cumprod(1).sum(1)

    wide = torch.ones_like(real)
    wide[real] = lead.wide
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
    )

"""Statistics of hidden states over the tokens of a calibration batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from hm3rl.errors import InputError
from hm3rl.models.hashing import short_hash


@dataclass(frozen=True, eq=False)
class Calibration:
    """Token sequences that alignments are fitted on, padded on the left.

    Attributes:
        input_ids: Shape (B, T), 0 where padded.
        attention_mask: Shape (B, T), 1 at tokens, 0 at padding; padding enters no statistic.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], device: str = "cpu") -> Calibration:
        """Lay token sequences out.

        Args:
            sequences: B sequences of token ids, from items that nothing is chosen on.
            device: Where the models are.

        Raises:
            InputError: There is none, or an empty one.
        """
        if not sequences or not all(sequences):
            raise InputError("an alignment needs calibration sequences", "give one token or more")
        longest = max(map(len, sequences))
        rows = [[0] * (longest - len(row)) + list(row) for row in sequences]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in sequences]
        return cls(torch.tensor(rows, device=device), torch.tensor(mask, device=device))

    @property
    def position_ids(self) -> torch.Tensor:
        """Positions counted from each sequence's first token, shape (B, T)."""
        return (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)

    @cached_property
    def key(self) -> str:
        """Content hash, 8 hexadecimal digits; padding does not count."""
        rows = zip(self.input_ids.tolist(), self.attention_mask.tolist(), strict=True)
        return short_hash(
            [[t for t, real in zip(*row, strict=True) if real] for row in rows], digits=8
        )

    def tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Take the states at tokens out of (B, T, d); fp64, shape (N, d)."""
        return hidden[self.attention_mask.bool()].double()


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of N states of width d, fp64.

    Attributes:
        mean: Shape (d,).
        variance: Of each channel, shape (d,).
        covariance: Shape (d, d), or None if it was not asked for.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    covariance: torch.Tensor | None = None

    @classmethod
    def of(cls, states: torch.Tensor, full: bool = False) -> Moments:
        """Measure.

        Args:
            states: Shape (N, d).
            full: Whether the covariance is needed.
        """
        states = states.double()
        mean = states.mean(dim=0)
        centred = states - mean
        if not full:
            return cls(mean, centred.square().mean(dim=0))
        covariance = centred.T @ centred / len(states)
        return cls(mean, covariance.diagonal().clone(), covariance)

    @property
    def mean_square(self) -> float:
        """Mean square of a state's channels, E|z|^2 / d."""
        return float((self.variance + self.mean.square()).mean())

    @property
    def nbytes(self) -> int:
        """Memory held."""
        kept = (self.mean, self.variance, self.covariance)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)

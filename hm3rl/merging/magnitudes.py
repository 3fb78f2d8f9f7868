"""Order statistics of a task vector's magnitudes: any trim threshold after one pass.

The upper half of a non-negative float's bits is an integer code that orders it. One pass counts the
codes, and of each the *inexact* entries, whose lower half is not zero: within a code these are the
larger ones, and all others have one and the same magnitude. So the counts alone tell the k-th
largest magnitude, unless it is inexact; then the inexact entries of its code are selected in a
second pass. Differences of bf16 weights are nearly always exact: the two are close, and their
difference needs no more bits than they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

_CODES = 1 << 15


class MagnitudeSketch:
    """Counts of the magnitudes of one tensor's entries.

    Args:
        pieces: The entries, fp32, in pieces of any shape; every entry once.
        reserve: Asks whether that many more bytes may be kept.
        count: Adds the counts of twice the codes to a table, instead of reading `pieces` here.
    """

    def __init__(
        self,
        pieces: Iterable[torch.Tensor],
        reserve: Callable[[int], bool] = lambda _: True,
        count: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        self._reserve = reserve
        twice = np.zeros(2 * _CODES, dtype=np.int64)
        if count is not None:
            count(twice)
        for piece in pieces if count is None else ():
            bits = piece.view(torch.int32).flatten() & 0x7FFFFFFF
            # The code rounded down plus the code rounded up: even where the entry is exact.
            found = _counted((bits >> 16) + (bits + 0xFFFF >> 16))
            twice[: len(found)] += found
        exact, inexact = twice.reshape(-1, 2).T
        counts = exact + inexact
        # Largest first; only codes that occur.
        self._codes = np.flatnonzero(counts)[::-1].astype(np.int32)
        self._reach = np.cumsum(counts[self._codes])
        self._inexact = inexact[self._codes]
        self._sorted: dict[int, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        """Memory of the counts, in bytes."""
        return self._codes.nbytes + self._reach.nbytes + self._inexact.nbytes

    def magnitude(self, rank: int, pieces: Iterable[torch.Tensor]) -> float:
        """Return the rank-th largest magnitude.

        Args:
            rank: 1 for the largest, up to the number of entries.
            pieces: The entries again; read only if the code does not tell the magnitude.
        """
        position = int(np.searchsorted(self._reach, rank))
        code, inexact = int(self._codes[position]), int(self._inexact[position])
        within = rank - (int(self._reach[position - 1]) if position else 0)
        if within > inexact:
            return float(np.uint32(code << 16).view(np.float32))
        values = self._sorted.get(position)
        if values is None:
            values = np.sort(np.concatenate([_inexact_with(code, piece) for piece in pieces]))
            if self._reserve(values.nbytes):
                self._sorted[position] = values
        return float(values[inexact - within])


def _counted(codes: torch.Tensor) -> np.ndarray:
    # On the CPU torch looks for the smallest code without vector instructions; numpy has them.
    if codes.device.type == "cpu":
        return np.bincount(codes.numpy())
    return torch.bincount(codes).cpu().numpy()


def _inexact_with(code: int, piece: torch.Tensor) -> np.ndarray:
    """Select the magnitudes with this upper half whose lower half is not zero."""
    lower = (piece.view(torch.int32).flatten() & 0x7FFFFFFF) - (code << 16)
    chosen = lower[(lower > 0) & (lower < 1 << 16)]
    return (chosen + (code << 16)).view(torch.float32).cpu().numpy()

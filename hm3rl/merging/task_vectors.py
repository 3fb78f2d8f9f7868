"""Task vectors of the sources, piece by piece, and what is kept so that later merges are cheap.

Task vectors are not stored: taking the difference of two stored tensors while they are in the
processor's cache costs less than reading a stored fp32 difference from memory. What is kept is
what needs a pass over a whole tensor: the counts of magnitudes from which every trim threshold
follows, and inner products. This is little (about 1 % of the sources) and bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch

from hm3rl.merging.kernels import fused
from hm3rl.merging.magnitudes import MagnitudeSketch
from hm3rl.merging.profile import Place, place_of
from hm3rl.merging.threads import alone

DEFAULT_LIMIT = 2**30
"""Bytes of kept statistics; beyond it they are computed again at each use."""

CPU_PIECE, DEVICE_PIECE = 1 << 16, 1 << 26
"""Entries of task vectors in work at once, over all experts: few enough that they stay in a
core's cache and that merges from files to files keep their memory bound, or, on an accelerator,
enough to hide the launch of a kernel."""


class TensorSources(Protocol):
    """What task vectors need of a pool."""

    @property
    def base_name(self) -> str:
        """Name of the base."""

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the experts."""

    @property
    def num_layers(self) -> int:
        """Decoder layers of every source."""

    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        """Stored tensors of a source by name, tied ones once, in the same order for all."""


class TensorPieces:
    """One tensor of the base and of some experts, read piece by piece.

    Args:
        base: The base's tensor.
        experts: The experts' tensors, K of them.
        row: Entries that belong together: pieces are whole rows of this length.
    """

    def __init__(self, base: torch.Tensor, experts: Sequence[torch.Tensor], row: int = 1) -> None:
        self.base = base.detach().reshape(-1)
        self.experts = [expert.detach().reshape(-1) for expert in experts]
        whole = CPU_PIECE if base.device.type == "cpu" else DEVICE_PIECE
        rows = whole // max(1, len(experts)) // row
        self._length = min(max(1, rows) * row, base.numel())
        self._deltas = torch.empty(len(experts), self._length, device=base.device)

    def bounds(self) -> Iterator[tuple[int, int]]:
        """Yield first and last-plus-one entry of each piece."""
        for start in range(0, self.base.numel(), self._length or 1):
            yield start, min(start + self._length, self.base.numel())

    def load(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one piece.

        Returns:
            The base's entries, fp32, shape (N,), not to be changed; and the task vectors, fp32,
            shape (K, N), free to be overwritten, valid until the next call.
        """
        base = self.base[start:stop].float()
        deltas = self._deltas[:, : stop - start]
        for row, expert in enumerate(self.experts):
            deltas[row].copy_(expert[start:stop])
        return base, deltas.sub_(base)

    def deltas(self) -> Iterator[torch.Tensor]:
        """Yield the task vectors of each piece, as `load` returns them."""
        for start, stop in self.bounds():
            yield self.load(start, stop)[1]


class TaskVectors:
    """delta_k = theta_k - theta_base in fp32, with the statistics that merging needs.

    Safe to be used by several threads at once.

    Args:
        pool: The sources.
        limit_bytes: Upper bound on the memory of kept statistics.
    """

    def __init__(self, pool: TensorSources, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.pool = pool
        self.limit_bytes = limit_bytes
        self._tensors = {name: pool.tensors(name) for name in (pool.base_name, *pool.expert_names)}
        base = self._tensors[pool.base_name]
        self.names: tuple[str, ...] = tuple(base)
        self.mergeable: tuple[str, ...] = tuple(n for n in base if base[n].is_floating_point())
        self.cached_bytes = 0
        """Memory of kept statistics, never above the limit."""
        self._sketches: dict[tuple[str, str], MagnitudeSketch] = {}
        self._grams: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()
        self._places = {name: place_of(name, pool.num_layers) for name in self.names}

    def place(self, name: str) -> Place:
        """Return where a tensor stands in the model."""
        return self._places[name]

    def base(self, name: str) -> torch.Tensor:
        """Return the base's tensor as stored in the pool."""
        return self._tensors[self.pool.base_name][name]

    def pieces(self, name: str, experts: Sequence[str], row: int = 1) -> TensorPieces:
        """Open one tensor of the base and of some experts for reading.

        Args:
            name: Name of a floating-point tensor.
            experts: Names of the experts.
            row: Entries that may not be torn apart.
        """
        tensors = [self._tensors[expert][name] for expert in experts]
        return TensorPieces(self.base(name), tensors, row)

    def stored(self, name: str, experts: Sequence[str]) -> list[torch.Tensor]:
        """Return one tensor of some experts as stored in the pool."""
        return [self._tensors[expert][name] for expert in experts]

    def deltas(self, name: str) -> torch.Tensor:
        """Return the task vectors of one whole tensor.

        Args:
            name: Name of a floating-point tensor.

        Returns:
            A new tensor, fp32, shape (K, *tensor.shape), K experts in the pool's order.
        """
        base = self.base(name).float()
        experts = [self._tensors[expert][name] for expert in self.pool.expert_names]
        return torch.stack([expert.float() - base for expert in experts])

    def magnitude(self, name: str, expert: str, rank: int) -> float:
        """Return the rank-th largest magnitude of a task vector's tensor.

        Args:
            name: Name of a floating-point tensor.
            expert: Name of the expert.
            rank: 1 for the largest, up to the number of entries.
        """
        key = (name, expert)
        sketch = self._sketches.get(key)
        if sketch is None:
            deltas = self._deltas(name, expert)
            sketch = MagnitudeSketch(deltas, self._reserve, self._counter(name, expert))
            if self._reserve(sketch.nbytes):
                self._sketches[key] = sketch
        return sketch.magnitude(rank, self._deltas(name, expert))

    def _deltas(self, name: str, expert: str) -> Iterator[torch.Tensor]:
        """Yield a task vector's tensor piece by piece; nothing is read or allocated before that."""
        yield from self.pieces(name, [expert]).deltas()

    def _counter(self, name: str, expert: str) -> Callable[[np.ndarray], None] | None:
        """What counts the magnitudes of a task vector faster than torch, if anything does."""
        base, (other,) = self.base(name), self.stored(name, [expert])
        if fused is None or not fused.reads(base, other):
            return None
        return partial(fused.count_codes, base, other)

    def gram(self, name: str) -> torch.Tensor:
        """Return the inner products of the base's tensor and all task vectors, over all entries.

        Returns:
            float64, shape (K + 1, K + 1): the base first, then the experts in the pool's order.
        """
        found = self._grams.get(name)
        if found is None:
            pieces = self.pieces(name, self.pool.expert_names)
            size = len(self.pool.expert_names) + 1
            found = torch.zeros(size, size, dtype=torch.float64, device=pieces.base.device)
            for start, stop in pieces.bounds():
                base, deltas = pieces.load(start, stop)
                both = torch.cat([base[None], deltas]).double()
                with alone():  # who asks is not always a thread of `in_threads`
                    found += both @ both.T
            if self._reserve(found.nbytes):
                self._grams[name] = found
        return found

    def _reserve(self, nbytes: int) -> bool:
        """Count so many more bytes as kept, if the limit allows."""
        with self._lock:
            if self.cached_bytes + nbytes > self.limit_bytes:
                return False
            self.cached_bytes += nbytes
            return True


def band(entries: int, density: float, gamma: float | None) -> tuple[int, int]:
    """Ranks by magnitude of the first and last entry that trimming keeps, 1 for the largest.

    Args:
        entries: Number n of entries of the tensor.
        density: Share that is kept: max(1, floor(density n)) entries.
        gamma: Share that is dropped above them, floor(gamma n) entries.
    """
    kept = max(1, int(density * entries))
    above = min(int((gamma or 0.0) * entries), entries - kept)
    return above + 1, above + kept

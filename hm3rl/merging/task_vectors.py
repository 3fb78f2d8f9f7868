"""Task vectors of a pool's experts, cached: what makes a second merge of the same sources cheap."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import named_tensors

DEFAULT_LIMIT = 8 * 2**30
"""Bytes of cached task vectors and base tensors; beyond it, tensors are recomputed at each use."""


class TaskVectors:
    """delta_k = theta_k - theta_base in fp32, tensor by tensor, with cached trim thresholds.

    Args:
        pool: The sources.
        limit_bytes: Upper bound on the memory of cached deltas.
    """

    def __init__(self, pool: ModelPool, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.pool = pool
        self.limit_bytes = limit_bytes
        self.cached_bytes = 0
        self._tensors = {name: named_tensors(pool.model(name)) for name in pool.names}
        base = self._tensors[pool.base_name]
        self.names: tuple[str, ...] = tuple(base)
        self.mergeable: tuple[str, ...] = tuple(n for n in base if base[n].is_floating_point())
        self._deltas: dict[str, torch.Tensor] = {}
        self._magnitudes: dict[tuple[str, str, int], float] = {}
        self._grams: dict[str, torch.Tensor] = {}

    @property
    def num_layers(self) -> int:
        """Decoder layers of the sources."""
        return self.pool.num_layers

    def base(self, name: str) -> torch.Tensor:
        """Return the base's tensor as stored in the pool."""
        return self._tensors[self.pool.base_name][name]

    def rows(self, experts: Sequence[str]) -> list[int]:
        """Return the positions of experts in the first dimension of `deltas`."""
        return [self.pool.expert_names.index(expert) for expert in experts]

    def deltas(self, name: str) -> torch.Tensor:
        """Return the task vectors of one tensor.

        Args:
            name: Name of a floating-point tensor.

        Returns:
            fp32, shape (K, *tensor.shape), K experts in the pool's order. Do not change it.
        """
        cached = self._deltas.get(name)
        if cached is not None:
            return cached
        base = self.base(name).float()
        experts = [self._tensors[expert][name] for expert in self.pool.expert_names]
        stacked = torch.stack([expert.float() - base for expert in experts])
        if self.cached_bytes + stacked.nbytes <= self.limit_bytes:
            self.cached_bytes += stacked.nbytes
            self._deltas[name] = stacked
        return stacked

    def magnitude(self, name: str, expert: str, rank: int) -> float:
        """Return the rank-th largest magnitude of a task vector's tensor.

        A selection, not a sort: it costs a fraction and is cached.

        Args:
            name: Name of a floating-point tensor.
            expert: Name of the expert.
            rank: 1 for the largest, up to the number of entries.
        """
        key = (name, expert, rank)
        found = self._magnitudes.get(key)
        if found is None:
            magnitudes = self.deltas(name)[self.rows([expert])[0]].abs().flatten()
            found = torch.kthvalue(magnitudes, magnitudes.numel() - rank + 1).values.item()
            self._magnitudes[key] = found
        return found

    def gram(self, name: str) -> torch.Tensor:
        """Return the inner products of the base's tensor and all task vectors, over all entries.

        Returns:
            float64, shape (K + 1, K + 1): the base first, then the experts in the pool's order.
        """
        found = self._grams.get(name)
        if found is None:
            both = torch.cat([self.base(name)[None].double(), self.deltas(name).double()])
            found = both.flatten(1) @ both.flatten(1).T
            self._grams[name] = found
        return found


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

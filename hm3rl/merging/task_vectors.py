"""Task vectors of a pool's experts, cached: what makes a second merge of the same sources cheap."""

from __future__ import annotations

import hashlib
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
        self._thresholds: dict[tuple[str, str, float], torch.Tensor] = {}

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

    def threshold(self, name: str, expert: str, density: float) -> torch.Tensor:
        """Return the smallest magnitude that survives trimming to `density`.

        k = max(1, floor(density * n)) entries survive, and with them all that equal the k-th
        largest magnitude. A selection, not a sort: it costs a fraction and is cached.

        Returns:
            Scalar tensor, fp32.
        """
        key = (name, expert, density)
        found = self._thresholds.get(key)
        if found is None:
            magnitudes = self.deltas(name)[self.rows([expert])[0]].abs().flatten()
            kept = max(1, int(density * magnitudes.numel()))
            found = torch.kthvalue(magnitudes, magnitudes.numel() - kept + 1).values
            self._thresholds[key] = found
        return found


def drop_mask(
    shape: Sequence[int], density: float, seed: int, tensor: str, model: str
) -> torch.Tensor:
    """Draw the entries that survive dropping.

    Seeded by (seed, tensor name, model name) and drawn on the CPU, so the mask depends neither on
    the order of calls nor on the device. Masks of one seed are nested in the density.

    Args:
        shape: Shape of the tensor.
        density: Probability of surviving, in (0, 1].
        seed: The recipe's seed.
        tensor: Name of the tensor.
        model: Name of the expert.

    Returns:
        Bool tensor of that shape.
    """
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{model}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(tuple(shape), generator=generator) < density

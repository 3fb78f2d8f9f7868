"""phi: a fixed-length description of every layer of every member, computed once.

HM3 does not say what phi is; ours: for each weight group of a layer the
norm of its task vector, the cosine with each expert's task vector and the sign conflict with the
experts, then a seeded random projection of the whole task vector. All entries are relative to
the experts' own task vectors, so they are of order one whatever the models' size. They depend on
weights only, never on a member's name or position.

In a pool of mixed architectures a tensor that the base does not have in this shape counts as its
own task vector, and an expert without such a tensor as having none there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from hm3rl.models.shallow import named_tensors
from hm3rl.paths.families import family_of, layer_prefix
from hm3rl.paths.members import MemberSet

GROUPS = ("attention", "mlp", "norm")
"""Weight groups of a layer."""


class LayerDescriptors:
    """Descriptors of a set of members, cached by member.

    Args:
        members: The members.
        dim: Number of random projections per layer.
        seed: Seed of the projections.
    """

    def __init__(self, members: MemberSet, dim: int = 8, seed: int = 0) -> None:
        self.members = members
        self.projections = dim
        self.seed = seed
        self._cache: dict[str, np.ndarray] = {}
        self._signs: dict[tuple[str, int], torch.Tensor] = {}

    @property
    def dim(self) -> int:
        """Length D of a descriptor: a norm, K cosines and a conflict per group, projections."""
        return len(GROUPS) * (len(self.members.pool.expert_names) + 2) + self.projections

    def of(self, names: Sequence[str]) -> np.ndarray:
        """Describe all layers of some members.

        Args:
            names: Members.

        Returns:
            float32, shape (M, L, D), L the most layers of any; zero where a member has fewer.
        """
        for name in names:
            if name not in self._cache:
                self._cache[name] = self._member(name)
        depth = max(len(self._cache[name]) for name in names)
        return np.stack(
            [
                np.pad(self._cache[name], ((0, depth - len(self._cache[name])), (0, 0)))
                for name in names
            ]
        )

    @torch.no_grad()
    def _member(self, name: str) -> np.ndarray:
        tensors = named_tensors(self.members.model(name))
        config = self.members.config(name)
        rows = []
        for layer in range(self.members.num_layers(name)):
            prefix = layer_prefix(config, layer)
            own = {
                tensor: self._delta(tensor, value)
                for tensor, value in tensors.items()
                if tensor.startswith(prefix) and value.is_floating_point()
            }
            rows.append(self._layer(prefix, own, family_of(config).attention))
        return np.stack(rows).astype(np.float32)

    def _delta(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Task vector of one tensor of some member, fp32."""
        base = self._sources[self.members.pool.base_name].get(name)
        if base is None or base.shape != value.shape:
            return value.float()
        return value.float() - base.float()

    @cached_property
    def _sources(self) -> dict[str, dict[str, torch.Tensor]]:
        pool = self.members.pool
        return {name: named_tensors(pool.model(name)) for name in pool.names}

    def _theirs(self, name: str, own: torch.Tensor) -> torch.Tensor:
        """The experts' task vectors of a tensor, fp32, shape (K, N), zero where there is none."""
        pool = self.members.pool
        if pool.mergeable == pool.expert_names:
            return self.members.task_vectors.deltas(name).reshape(len(pool.expert_names), -1)
        given = [self._sources[expert].get(name) for expert in pool.expert_names]
        rows = [
            torch.zeros(own.numel(), device=own.device)
            if tensor is None or tensor.shape != own.shape
            else self._delta(name, tensor).flatten()
            for tensor in given
        ]
        return torch.stack(rows)

    def _layer(self, prefix: str, own: dict[str, torch.Tensor], attention: str) -> np.ndarray:
        experts = len(self.members.pool.expert_names)
        features: list[float] = []
        for group in GROUPS:
            names = [n for n in own if _group(n.removeprefix(prefix), attention) == group]
            mine = torch.cat([own[n].flatten() for n in names]) if names else torch.zeros(1)
            theirs = (
                torch.cat([self._theirs(n, own[n]) for n in names], dim=1)
                if names
                else torch.zeros(experts, 1)
            )
            features += _compare(mine, theirs)
        sketch = torch.zeros(self.projections)
        typical = torch.zeros(experts, device=self.members.pool.device)
        for name, delta in own.items():
            sketch += self._sketch(name.removeprefix(prefix), delta.flatten())
            typical += self._theirs(name, delta).square().sum(dim=1)
        features += (sketch / (typical.sqrt().mean().item() + 1e-12)).tolist()
        return np.array(features)

    def _sketch(self, name: str, delta: torch.Tensor) -> torch.Tensor:
        """Project onto `projections` random sign vectors with disjoint support (count sketch).

        The signs depend on the tensor's name inside the layer, not on the layer's index, so equal
        changes at different depths look alike.
        """
        key = (name, delta.numel())
        if key not in self._signs:
            digest = hashlib.sha256(f"{self.seed}\0{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            self._signs[key] = (
                torch.randint(0, 2, (delta.numel(),), generator=generator, dtype=torch.int8) * 2 - 1
            )
        buckets = torch.arange(delta.numel()) % self.projections
        signed = delta.cpu() * self._signs[key]
        return torch.zeros(self.projections).index_add_(0, buckets, signed)


def _group(name: str, attention: str) -> str:
    if "norm" in name or name.startswith("ln_"):
        return "norm"
    return "attention" if name.startswith(attention) else "mlp"


def _compare(mine: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """Compare one task vector (N,) with the experts' (K, N): norm, K cosines, sign conflict."""
    norm, norms = mine.norm(), theirs.norm(dim=1)
    relative = norm / (norms.mean() + 1e-12)
    cosines = (theirs @ mine) / (norm * norms + 1e-12)
    # Share of this vector's magnitude that points against the experts' summed direction.
    magnitude = mine.abs()
    against = (mine * theirs.sum(dim=0)) < 0
    conflict = (magnitude * against).sum() / (magnitude.sum() + 1e-12)
    return [relative.item(), *cosines.tolist(), conflict.item()]


def layer_descriptors(
    members: MemberSet, names: Sequence[str], *, dim: int = 8, seed: int = 0
) -> np.ndarray:
    """Describe all layers of some members; each member is computed once per set of members.

    Args:
        members: The members.
        names: Which of them, M names.
        dim: Number of random projections per layer.
        seed: Seed of the projections.

    Returns:
        float32, shape (M, L, D) with D = 3 (K + 2) + dim.
    """
    key = ("layer_descriptors", dim, seed)
    if key not in members.derived:
        members.derived[key] = LayerDescriptors(members, dim, seed)
    return members.derived[key].of(names)

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
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hm3rl.models.shallow import named_tensors
from hm3rl.paths.families import family_of, layer_prefix
from hm3rl.paths.members import MemberSet

GROUPS = ("attention", "mlp", "norm")
"""Weight groups of a layer."""

KEPT_BYTES = 2**27
"""Memory for what the experts' own task vectors contribute; beyond it that is computed anew."""


@dataclass(frozen=True)
class _WeightGroup:
    """What a group of a layer is compared with; N entries, K experts.

    Attributes:
        entries: Where the group's entries are in the layer.
        theirs: The experts' task vectors, shape (K, N).
        norms: Their norms, shape (K,).
        sum: Their sum, shape (N,).
    """

    entries: slice
    theirs: torch.Tensor
    norms: torch.Tensor
    sum: torch.Tensor


@dataclass(frozen=True)
class _Layer:
    """A layer of some shape, its tensors laid out group by group, and all that is compared with.

    Attributes:
        names: Tensors in that order.
        base: The base's entries, fp32, shape (N,); zero where it has no such tensor.
        groups: What each group is compared with; None: the layer has no such group.
        typical: Mean norm of the experts' task vectors.
        pieces: By tensor, in the members' order: its entries, its signs and its buckets.
    """

    names: tuple[str, ...]
    base: torch.Tensor
    groups: tuple[_WeightGroup | None, ...]
    typical: float
    pieces: tuple[tuple[slice, torch.Tensor, torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        groups = [tensor for g in self.groups if g for tensor in (g.theirs, g.sum)]
        return sum(tensor.nbytes for tensor in (self.base, *groups))


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
        self._buckets: dict[int, torch.Tensor] = {}
        self._layers: dict[Hashable, _Layer] = {}
        self._kept = 0

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
        attention = family_of(config).attention
        layers = [layer_prefix(config, n) for n in range(self.members.num_layers(name))]
        own: dict[str, dict[str, torch.Tensor]] = {prefix: {} for prefix in layers}
        for tensor, value in tensors.items():
            prefix = next((p for p in layers if tensor.startswith(p)), None)
            if prefix is not None and value.is_floating_point():
                own[prefix][tensor] = value
        rows = [self._describe(self._layer(p, own[p], attention), own[p]) for p in layers]
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

    def _layer(self, prefix: str, own: Mapping[str, torch.Tensor], attention: str) -> _Layer:
        """What a layer with these tensors is compared with; kept as far as memory allows."""
        key = (prefix, *((name, value.shape) for name, value in own.items()))
        if key in self._layers:
            return self._layers[key]
        experts, device = len(self.members.pool.expert_names), self.members.pool.device
        groups: list[_WeightGroup | None] = []
        names: list[str] = []
        places: dict[str, slice] = {}
        end = 0
        typical = torch.zeros(experts, device=device)
        theirs = {name: self._theirs(name, value) for name, value in own.items()}
        for name in own:
            typical += theirs[name].square().sum(dim=1)
        for group in GROUPS:
            members = [n for n in own if _group(n.removeprefix(prefix), attention) == group]
            begin = end
            for name in members:
                places[name] = slice(end, end + own[name].numel())
                end = places[name].stop
            names += members
            if not members:
                groups.append(None)
                continue
            rows = torch.cat([theirs[name] for name in members], dim=1)
            groups.append(_WeightGroup(slice(begin, end), rows, rows.norm(dim=1), rows.sum(dim=0)))
        empty = torch.zeros(0, device=device)
        layer = _Layer(
            names=tuple(names),
            base=torch.cat([empty, *(self._base(name, own[name]) for name in names)]),
            groups=tuple(groups),
            typical=typical.sqrt().mean().item(),
            pieces=tuple(
                (places[name], *self._random(name.removeprefix(prefix), value.numel()))
                for name, value in own.items()
            ),
        )
        if self._kept + layer.nbytes <= KEPT_BYTES:
            self._layers[key] = layer
            self._kept += layer.nbytes
        return layer

    def _base(self, name: str, own: torch.Tensor) -> torch.Tensor:
        """What a tensor's task vector is the difference to, fp32, flat."""
        base = self._sources[self.members.pool.base_name].get(name)
        if base is None or base.shape != own.shape:
            return torch.zeros(own.numel(), device=own.device)
        return base.float().flatten()

    def _describe(self, layer: _Layer, own: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Describe a layer with these tensors."""
        flat = [own[name].flatten() for name in layer.names]
        delta = torch.cat([layer.base[:0], *flat]).float() - layer.base
        features: list[float] = []
        for group in layer.groups:
            if group is None:
                features += [0.0] * (len(self.members.pool.expert_names) + 2)
            else:
                features += _compare(delta[group.entries], group)
        # Projection onto sign vectors with disjoint support (count sketch).
        sketch = torch.zeros(self.projections)
        on_cpu = delta.cpu()
        for entries, signs, buckets in layer.pieces:
            signed = on_cpu[entries] * signs
            sketch += torch.zeros(self.projections).index_add_(0, buckets, signed)
        features += (sketch / (layer.typical + 1e-12)).tolist()
        return np.array(features)

    def _random(self, name: str, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Signs of a tensor's entries and the projection that each belongs to.

        The signs depend on the tensor's name inside the layer, not on the layer's index, so equal
        changes at different depths look alike.
        """
        key = (name, entries)
        if key not in self._signs:
            digest = hashlib.sha256(f"{self.seed}\0{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            self._signs[key] = (
                torch.randint(0, 2, (entries,), generator=generator, dtype=torch.int8) * 2 - 1
            )
        if entries not in self._buckets:
            self._buckets[entries] = torch.arange(entries, dtype=torch.int32) % self.projections
        return self._signs[key], self._buckets[entries]


def _group(name: str, attention: str) -> str:
    if "norm" in name or name.startswith("ln_"):
        return "norm"
    return "attention" if name.startswith(attention) else "mlp"


def _compare(mine: torch.Tensor, group: _WeightGroup) -> list[float]:
    """Compare one task vector (N,) with the experts': norm, K cosines, sign conflict."""
    norm = mine.norm()
    relative = norm / (group.norms.mean() + 1e-12)
    cosines = (group.theirs @ mine) / (norm * group.norms + 1e-12)
    # Share of this vector's magnitude that points against the experts' summed direction.
    magnitude = mine.abs()
    against = (mine * group.sum) < 0
    conflict = (magnitude * against).sum() / (magnitude.sum() + 1e-12)
    return torch.stack([relative, *cosines, conflict]).tolist()


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

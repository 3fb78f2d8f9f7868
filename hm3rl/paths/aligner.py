"""`Aligner`: fits the alignments of a path, one forward pass over the calibration batch at most.

Every stitch point of a path fits its map when the pass reaches it, on the states that the already
aligned layers below hand up. What a map depends on makes its key, so paths with a common beginning
share maps, and a path whose maps are all known costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.hashing import short_hash
from hm3rl.paths.alignment import AffineMap, ScalarMap, closed_form
from hm3rl.paths.alignment_kind import FULL_KINDS, split_alignment
from hm3rl.paths.coral import MlpMap, fit_mlp
from hm3rl.paths.families import decoder
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.statistics import Calibration, Moments
from hm3rl.paths.views import Alignment

DEFAULT_LIMIT = 512 * 2**20
"""Bytes of maps and statistics kept; the least recently used are dropped and fitted anew."""

VERSION = "alignment-1"
"""Part of every key; changes when a map could come out differently."""

AlignmentMap: TypeAlias = ScalarMap | AffineMap | MlpMap

Stitch: TypeAlias = Callable[[LayerPath, Sequence[Alignment | None]], PreTrainedModel]
"""Builds a model from a path and what is applied to each layer's input."""


class Contents(Protocol):
    """What the aligner asks a set of members."""

    def content(self, name: str) -> str:
        """Content hash of a member."""

    def num_layers(self, name: str) -> int:
        """Layers of a member."""

    def hidden_size(self, name: str) -> int:
        """Width of a member's residual stream."""


class Aligner:
    """Maps and statistics on one calibration batch, cached under a limit.

    Args:
        calibration: The batch; it goes through a model in one piece.
        limit_bytes: See `DEFAULT_LIMIT`.
    """

    def __init__(self, calibration: Calibration, limit_bytes: int = DEFAULT_LIMIT) -> None:
        self.calibration = calibration
        self.limit_bytes = limit_bytes
        self.passes = 0
        """Forward passes made so far."""
        self._maps: OrderedDict[str, AlignmentMap] = OrderedDict()
        self._natives: OrderedDict[str, Moments] = OrderedDict()

    @property
    def cached_bytes(self) -> int:
        """Memory held by maps and statistics."""
        return sum(kept.nbytes for cache in (self._maps, self._natives) for kept in cache.values())

    def maps(
        self, alignment: str, path: LayerPath, members: Contents, stitch: Stitch
    ) -> list[AlignmentMap | None]:
        """Return the map in front of each layer, fitting those that are not known.

        Args:
            alignment: `Candidate.alignment`, not "none".
            path: The path.
            members: Where its layers come from.
            stitch: Builds models of these members.

        Returns:
            One entry a layer; None where it follows its original neighbour.

        Raises:
            InputError: The alignment belongs to another calibration batch.
            ArithmeticError: The path's states are zero, NaN or infinite.
        """
        kind, batch = split_alignment(alignment)
        if batch != self.calibration.key:
            raise InputError(
                f"the candidate is aligned on calibration batch {batch}, this is batch "
                f"{self.calibration.key}",
                "use the tasks and paths.alignment_items it was found with",
            )
        keys = self._keys(alignment, path, members)
        known = {depth: self._maps.get(keys[depth]) for depth in path.stitch_points}
        missing = [depth for depth in path.stitch_points if known[depth] is None]
        if missing:
            targets = self._native(
                [path.refs[depth] for depth in missing], members, stitch, kind in FULL_KINDS
            )
            steps: list[Alignment | None] = [known.get(d) for d in range(missing[-1] + 1)]
            fitting = {
                depth: _Fit(self.calibration, kind, keys[depth], targets[path.refs[depth]])
                for depth in missing
            }
            for depth, fit in fitting.items():
                steps[depth] = fit
            self._run(stitch(LayerPath(path.refs[: len(steps)], path.stem), steps))
            known.update((depth, fit.result) for depth, fit in fitting.items())
        for depth in path.stitch_points:
            found = known[depth]
            assert found is not None
            self._maps[keys[depth]] = found
            self._maps.move_to_end(keys[depth])
        self._shrink()
        return [known.get(depth) for depth in range(path.length)]

    def _keys(self, alignment: str, path: LayerPath, members: Contents) -> list[str]:
        """Hash all that the map in front of each layer depends on."""
        content = {name: members.content(name) for name in path.members}
        keys = [short_hash([VERSION, alignment, content[path.stem]])]
        for member, layer in path.refs:
            keys.append(short_hash([keys[-1], content[member], layer]))
        return keys[1:]

    def _native(
        self, wanted: Sequence[LayerRef], members: Contents, stitch: Stitch, full: bool
    ) -> dict[LayerRef, Moments]:
        """Statistics of what layers are given in their own model."""
        found: dict[LayerRef, Moments] = {}
        for member in dict.fromkeys(ref.member for ref in wanted):
            content = members.content(member)
            keys = {
                layer: short_hash([content, layer, full])
                for layer in range(members.num_layers(member))
            }
            layers = sorted({ref.layer for ref in wanted if ref.member == member})
            if any(keys[layer] not in self._natives for layer in layers):
                self._measure(
                    member, self._worth(layers, members, member, full), keys, stitch, full
                )
            for layer in layers:
                self._natives.move_to_end(keys[layer])
                found[LayerRef(member, layer)] = self._natives[keys[layer]]
        return found

    def _worth(
        self, layers: Sequence[int], members: Contents, member: str, full: bool
    ) -> Iterable[int]:
        """All layers of a member if their statistics are small, else those asked for."""
        width, count = members.hidden_size(member), members.num_layers(member)
        size = 8 * width * (width if full else 2) * count
        return range(count) if size <= self.limit_bytes / 8 else layers

    def _measure(
        self, member: str, layers: Iterable[int], keys: dict[int, str], stitch: Stitch, full: bool
    ) -> None:
        records = {layer: _Record(self.calibration, full) for layer in layers}
        last = max(records)
        path = LayerPath(tuple(LayerRef(member, layer) for layer in range(last + 1)), member)
        self._run(stitch(path, [records.get(layer) for layer in range(last + 1)]))
        for layer, record in records.items():
            assert record.result is not None
            self._natives[keys[layer]] = record.result

    @torch.no_grad()
    def _run(self, model: PreTrainedModel) -> None:
        batch = self.calibration
        self.passes += 1
        decoder(model)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )

    def _shrink(self) -> None:
        size = self.cached_bytes
        for cache in (self._natives, self._maps):
            while cache and size > self.limit_bytes:
                _, dropped = cache.popitem(last=False)
                size -= dropped.nbytes


@dataclass
class _Record:
    """Stands where an alignment would and measures what comes by."""

    calibration: Calibration
    full: bool
    result: Moments | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.result = Moments.of(self.calibration.tokens(hidden), self.full)
        return hidden


@dataclass
class _Fit:
    """Becomes a map when the first states come by, and applies it."""

    calibration: Calibration
    kind: str
    key: str
    target: Moments
    result: AlignmentMap | None = field(default=None)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        states = self.calibration.tokens(hidden)
        source = Moments.of(states, self.kind in FULL_KINDS)
        if self.kind == "mlp":
            self.result = fit_mlp(self.key, states, source, self.target)
        else:
            self.result = closed_form(self.kind, self.key, source, self.target)
        return self.result(hidden)

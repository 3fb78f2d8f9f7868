"""`LayerPath`: which layer of which member runs at each depth, and its text form.

The text `math | math[0:4] + merged@3fa9c1d2[4:7] + code[7]` reads: the embedding of `math`, its
layers 0 to 3, layers 4 to 6 of a merged member, layer 7 of `code`. A blend is named by its
coefficients: `{code: 0.4, math: 0.7}[3:5]` (`hm3rl.merging.blend`). Ranges are half-open, as in
Python. Repeats, skips and backward jumps are legal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hm3rl.errors import InputError
from hm3rl.merging.blend import PATTERN, blend_name, blend_of, is_blend

_MEMBER = r"[A-Za-z0-9_][A-Za-z0-9_.\-@]*"
MOST_LAYERS = 10_000
"""Layers of the longest path that a text may spell: far beyond any model, and small in memory."""

_TERM = re.compile(rf"\s*({_MEMBER}|{PATTERN})\[(\d{{1,18}})(?::(\d{{1,18}}))?\]\s*")


class LayerRef(NamedTuple):
    """One decoder layer of one member.

    Attributes:
        member: Name of a source, a merged member or a blend.
        layer: Index of the layer in that member, from 0.
    """

    member: str
    layer: int


@dataclass(frozen=True)
class LayerPath:
    """An inference path: the stem's member, then a layer for each depth.

    Attributes:
        refs: Layers from input to output, at least one.
        stem: Member that lends the embedding, the final norm and, where tied, the head.
    """

    refs: tuple[LayerRef, ...]
    stem: str

    def __post_init__(self) -> None:
        """Check the path and turn plain pairs into `LayerRef`s."""
        if not self.refs:
            raise InputError("a path has no layers", "give at least one")
        names = {str(member): "" for member in (self.stem, *(member for member, _ in self.refs))}
        for member in names:
            if not is_blend(member) and not re.fullmatch(_MEMBER, member):
                raise InputError(f"{member!r} cannot name a member", "see the names of the pool")
            names[member] = blend_name(blend_of(member)) if is_blend(member) else member
        refs = tuple(LayerRef(names[str(member)], int(layer)) for member, layer in self.refs)
        object.__setattr__(self, "stem", names[self.stem])
        if any(ref.layer < 0 for ref in refs):
            raise InputError(f"the path {refs} has a negative layer", "count layers from 0")
        object.__setattr__(self, "refs", refs)

    @classmethod
    def whole(cls, member: str, num_layers: int) -> LayerPath:
        """Return a member's own path: all its layers in order."""
        return cls(tuple(LayerRef(member, layer) for layer in range(num_layers)), member)

    @classmethod
    def parse(cls, text: str) -> LayerPath:
        """Read the text form.

        Raises:
            InputError: The text is no path; says where it stops making sense.
        """
        remedy = "write e.g. 'math | math[0:4] + code[4:8]'"
        stem, bar, body = text.partition("|")
        if not bar:
            raise InputError(f"the path {text!r} has no stem", remedy)
        refs: list[LayerRef] = []
        for term in body.split("+"):
            match = _TERM.fullmatch(term)
            if match is None:
                raise InputError(f"cannot read {term.strip()!r} in the path {text!r}", remedy)
            member, first, end = match.group(1), int(match.group(2)), match.group(3)
            stop = first + 1 if end is None else int(end)
            if stop <= first:
                raise InputError(f"{term.strip()!r} in the path {text!r} is empty", remedy)
            if len(refs) + stop - first > MOST_LAYERS:
                raise InputError(
                    f"{term.strip()!r} makes a path of more than {MOST_LAYERS} layers",
                    "name the layers that the member has",
                )
            refs += [LayerRef(member, layer) for layer in range(first, stop)]
        return cls(tuple(refs), stem.strip())

    @property
    def length(self) -> int:
        """Number of layers."""
        return len(self.refs)

    @property
    def members(self) -> tuple[str, ...]:
        """Every member the path uses, each once, the stem's first, then in order of depth."""
        return tuple(dict.fromkeys((self.stem, *(ref.member for ref in self.refs))))

    @cached_property
    def stitch_points(self) -> tuple[int, ...]:
        """Depths whose layer does not follow its original neighbour.

        A layer's neighbour is the layer before it in the same member; a first layer's is the stem
        of its member. Where layers are blended they are all of one model, and only the index tells.
        """
        before = (LayerRef(self.stem, -1), *self.refs)
        blended = any(map(is_blend, self.members))
        return tuple(
            depth
            for depth, ref in enumerate(self.refs)
            if before[depth].layer != ref.layer - 1
            or not (blended or before[depth].member == ref.member)
        )

    @property
    def whole_member(self) -> str | None:
        """The member that the path is, layer for layer from its first, stem included, or None.

        Of a member with more layers than the path has, it is the beginning.
        """
        runs = list(self.runs())
        return self.stem if runs == [(self.stem, 0, self.length)] else None

    def runs(self) -> Iterator[tuple[str, int, int]]:
        """Yield maximal runs of consecutive layers as (member, first, end), end excluded."""
        start = 0
        for at in range(1, len(self.refs) + 1):
            last = self.refs[at - 1]
            if at == len(self.refs) or self.refs[at] != (last.member, last.layer + 1):
                yield last.member, self.refs[start].layer, last.layer + 1
                start = at

    def __str__(self) -> str:
        """Return the text form."""
        terms = (
            f"{member}[{first}]" if end == first + 1 else f"{member}[{first}:{end}]"
            for member, first, end in self.runs()
        )
        return f"{self.stem} | {' + '.join(terms)}"

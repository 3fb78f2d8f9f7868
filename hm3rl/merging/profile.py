"""`Profile`: a weight or density that differs between attention, MLP and the rest, and over depth.

A block's values are *anchors*: equally spaced over the depth of the model and interpolated
linearly, as mergekit's gradients are. One anchor is a constant; as many anchors as there are layers
are one value for each layer. Tensors outside the layers (embedding, final norm, head) take the
rest's first anchor, also as in mergekit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hm3rl.errors import InputError

BLOCKS = ("attention", "mlp", "rest")
"""Blocks a profile tells apart; `rest` is norms, embeddings, head and all that is neither."""

_ATTENTION = frozenset({"self_attn", "attn", "attention"})
_MLP = frozenset({"mlp"})


class Place(NamedTuple):
    """Where a tensor stands in a model.

    Attributes:
        block: One of `BLOCKS`.
        layer: Index of its decoder layer, None outside the layers.
        layers: Number of decoder layers, at least 1.
    """

    block: str
    layer: int | None
    layers: int


def place_of(name: str, layers: int) -> Place:
    """Locate a tensor by its name in the state dict, e.g. `model.layers.3.self_attn.q_proj.weight`.

    The first number in the name is the layer's index, the component after it the block.

    Args:
        name: Name of the tensor.
        layers: Number of decoder layers of the model.

    Returns:
        Its place.
    """
    parts = name.split(".")
    for position, part in enumerate(parts[:-1]):
        if part.isdecimal():
            module = parts[position + 1]
            block = "attention" if module in _ATTENTION else "mlp" if module in _MLP else "rest"
            return Place(block, int(part), layers)
    return Place("rest", None, layers)


@dataclass(frozen=True)
class Profile:
    """A number that varies over a model. Equal profiles compare equal, however they were written.

    Attributes:
        attention: Anchors of the attention's tensors, first to last layer, at least one.
        mlp: Anchors of the MLP's tensors.
        rest: Anchors of all other tensors.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    rest: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the anchors and reduce them to the fewest that say the same."""
        for block in BLOCKS:
            anchors = getattr(self, block)
            if not anchors or not all(math.isfinite(value) for value in anchors):
                raise InputError(
                    f"{block} has the anchors {list(anchors)}", "give one or more finite numbers"
                )
            object.__setattr__(self, block, _fewest(tuple(rounded(v) for v in anchors)))

    @classmethod
    def of(cls, value: Any) -> Profile:
        """Read a profile as it is written in recipes.

        Args:
            value: A number, a list of anchors, or a mapping from blocks to either; blocks that are
                not named belong to `rest`, which must be.

        Raises:
            InputError: It is none of these.
        """
        if not isinstance(value, Mapping):
            anchors = _anchors(value)
            return cls(anchors, anchors, anchors)
        unknown = sorted(set(value) - set(BLOCKS))
        if unknown or "rest" not in value:
            what = f"names {unknown[0]!r}" if unknown else "lacks `rest`"
            raise InputError(
                f"a value by block {what}", f"blocks: {', '.join(BLOCKS)}; rest is needed"
            )
        return cls(*(_anchors(value.get(block, value["rest"])) for block in BLOCKS))

    def at(self, place: Place) -> float:
        """Return the value for a tensor at this place."""
        anchors: tuple[float, ...] = getattr(self, place.block)
        if place.layer is None or len(anchors) == 1:
            return anchors[0]
        if place.layers == 1:
            return anchors[-1]
        # Whole numbers, so that an anchor is met exactly.
        steps = place.layers - 1
        before, beyond = divmod(place.layer * (len(anchors) - 1), steps)
        if beyond == 0:
            return anchors[before]
        share = beyond / steps
        return (1 - share) * anchors[before] + share * anchors[before + 1]

    @property
    def anchors(self) -> tuple[float, ...]:
        """All anchors of all blocks."""
        return self.attention + self.mlp + self.rest

    @property
    def constant(self) -> bool:
        """Whether the value is the same everywhere."""
        return len(set(self.anchors)) == 1

    @property
    def mean(self) -> float:
        """The mean over depth, then over the three blocks."""
        return rounded(math.fsum(_mean(getattr(self, block)) for block in BLOCKS) / len(BLOCKS))

    def plain(self) -> float | list[float] | dict[str, float | list[float]]:
        """Write the profile in the shortest form that `of` reads."""
        written = {block: _plain(getattr(self, block)) for block in BLOCKS}
        if self.attention == self.mlp == self.rest:
            return written["rest"]
        return {b: v for b, v in written.items() if b == "rest" or v != written["rest"]}


def rounded(value: float) -> float:
    """Round to ten significant digits, so that 0.1 + 0.2 and 0.3 are one weight."""
    return float(f"{float(value):.10g}") + 0.0


def _anchors(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise InputError(
            f"{value!r} is neither a number nor a list of numbers",
            "give a number, a list of anchors over the depth, or a mapping from blocks to these",
        )
    return tuple(float(v) for v in values)


def _fewest(anchors: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(anchors)) == 1:
        return anchors[:1]
    last = len(anchors) - 1
    for steps in range(1, last):
        stride, left = divmod(last, steps)
        kept = anchors[::stride]
        if left == 0 and anchors == tuple(
            rounded(
                kept[i // stride]
                + i % stride / stride * (kept[-(-i // stride)] - kept[i // stride])
            )
            for i in range(last + 1)
        ):
            return kept
    return anchors


def _mean(anchors: tuple[float, ...]) -> float:
    """Mean of the piecewise linear function through equally spaced anchors."""
    if len(anchors) == 1:
        return anchors[0]
    return (math.fsum(anchors) - (anchors[0] + anchors[-1]) / 2) / (len(anchors) - 1)


def _plain(anchors: tuple[float, ...]) -> float | list[float]:
    return anchors[0] if len(anchors) == 1 else list(anchors)

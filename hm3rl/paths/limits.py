"""Which paths a search may propose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hm3rl.errors import InputError
from hm3rl.paths.alignment_kind import NO_ALIGNMENT
from hm3rl.paths.layer_path import LayerPath

ActionKind = Literal["any", "same_depth"]


@dataclass(frozen=True)
class PathLimits:
    """Bounds of the architecture level.

    Attributes:
        min_length: Fewest layers, at least 1.
        max_length: Most layers, the paper's T_max.
        stem: "free" to let every path choose whose embedding it uses, or the name of a member.
        actions: "any" for every (member, layer) at every depth, "same_depth" for layer t of some
            member at depth t only (no repeats, skips or jumps).
        alignment: What every proposed path is aligned with, as `Candidate.alignment`.
    """

    min_length: int
    max_length: int
    stem: str = "free"
    actions: ActionKind = "any"
    alignment: str = NO_ALIGNMENT

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not 1 <= self.min_length <= self.max_length:
            raise InputError(
                f"path lengths {self.min_length} to {self.max_length} are no range",
                "need 1 <= min_length <= max_length",
            )
        if self.actions not in get_args(ActionKind):
            raise InputError(
                f"unknown kind of path actions {self.actions!r}",
                f"one of {', '.join(get_args(ActionKind))}",
            )

    def allows(self, path: LayerPath) -> bool:
        """Whether a path respects these limits."""
        return (
            self.min_length <= path.length <= self.max_length
            and self.stem in ("free", path.stem)
            and (self.actions == "any" or all(r.layer == t for t, r in enumerate(path.refs)))
        )

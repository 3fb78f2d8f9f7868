"""Kinds of alignment between stitched layers, and how a candidate writes its own. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hm3rl.config.schema import PathSettings
from hm3rl.config.values import choices
from hm3rl.errors import InputError

ALIGNMENTS = choices(PathSettings, "alignment")
"""Kinds; `alignment.py` and `coral.py` say what they compute."""

NO_ALIGNMENT = "none"

SCALES = "scales"
"""Kind whose factors are written in the candidate instead of being fitted: `scales@1,0.95`."""

FULL_KINDS = ("full", "full_paper", "mlp")
"""Kinds that need covariances."""


def split_alignment(text: str) -> tuple[str, str]:
    """Split `Candidate.alignment` into its kind and the key of its calibration batch.

    "none" has no batch; any other kind is written `kind@key`, because what it computes depends on
    the batch. Given scales have their factors in its place.

    Raises:
        InputError: Unknown kind, or a batch that is missing or out of place.
    """
    kind, at, batch = text.partition("@")
    if kind not in (*ALIGNMENTS, SCALES):
        raise InputError(f"unknown alignment {kind!r}", f"one of {', '.join(ALIGNMENTS)}")
    if (kind == NO_ALIGNMENT) == bool(batch) or bool(at) != bool(batch):
        raise InputError(
            f"alignment {text!r} {'has a' if batch else 'names no'} calibration batch",
            "write none, or kind@batch, as MemberSet.alignment(kind) does",
        )
    return kind, batch


def write_scales(factors: Sequence[float]) -> str:
    """Write given factors, one for each stitch point, as `Candidate.alignment`; to three digits."""
    return f"{SCALES}@{','.join(f'{factor:.3g}' for factor in factors)}"


def read_scales(text: str) -> tuple[float, ...]:
    """Read given factors; the reverse of `write_scales`, and () for any other alignment.

    Raises:
        InputError: They are no positive finite numbers.
    """
    kind, written = split_alignment(text)
    if kind != SCALES:
        return ()
    try:
        factors = tuple(float(word) for word in written.split(","))
    except ValueError:
        factors = (-1.0,)
    if not all(0.0 < factor < math.inf for factor in factors):
        raise InputError(f"alignment {text!r} has no positive factors", "as in scales@1,0.95")
    return factors

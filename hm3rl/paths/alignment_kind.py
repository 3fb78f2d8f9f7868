"""Kinds of alignment between stitched layers, and how a candidate writes its own. Free of torch."""

from __future__ import annotations

from hm3rl.errors import InputError

ALIGNMENTS = ("none", "scalar", "diagonal", "full", "full_paper", "mlp")
"""Kinds; `alignment.py` and `coral.py` say what they compute."""

NO_ALIGNMENT = "none"

FULL_KINDS = ("full", "full_paper", "mlp")
"""Kinds that need covariances."""


def split_alignment(text: str) -> tuple[str, str]:
    """Split `Candidate.alignment` into its kind and the key of its calibration batch.

    "none" has no batch; any other kind is written `kind@key`, because what it computes depends on
    the batch.

    Raises:
        InputError: Unknown kind, or a batch that is missing or out of place.
    """
    kind, at, batch = text.partition("@")
    if kind not in ALIGNMENTS:
        raise InputError(f"unknown alignment {kind!r}", f"one of {', '.join(ALIGNMENTS)}")
    if (kind == NO_ALIGNMENT) == bool(batch) or bool(at) != bool(batch):
        raise InputError(
            f"alignment {text!r} {'has a' if batch else 'names no'} calibration batch",
            "write none, or kind@batch, as MemberSet.alignment(kind) does",
        )
    return kind, batch

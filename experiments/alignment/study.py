"""Alignment of hidden states where layers of different members meet; see README.md."""

from __future__ import annotations

from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

LEVELS = ("none", "scalar", "diagonal", "full", "full_paper", "mlp")

STUDY = Study(
    name="alignment",
    variants={level: Variant((f"paths.alignment={level}",), {100: 5}) for level in LEVELS},
    write=write_methods_only,
)

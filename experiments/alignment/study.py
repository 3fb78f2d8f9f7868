"""Alignment of hidden states where layers of different members meet; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Study, Variant
from experiments.common.report import write_methods_only

LEVELS = ("scalar", "diagonal", "full", "full_paper", "mlp")
SEEDS = {100: 5}

STUDY = Study(
    name="alignment",
    variants={
        "hm3": method("hm3", SEEDS),
        **{f"align_{level}": Variant((f"paths.alignment={level}",), SEEDS) for level in LEVELS},
    },
    write=write_methods_only,
    runs="fronts",
    adds=True,
)

"""Renders the measured results as Markdown and puts them into this folder's README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.zoo.settings import NAMES

BEGIN = "<!-- tables written by experiments.zoo.measure: begin -->"
END = "<!-- end -->"

Row = dict[str, str | float]


def sources_table(rows: Sequence[Row]) -> str:
    """Render score ± standard error of each model by split and task, and chrF."""
    tasks = NAMES[1:]
    cells = {(r["model"], r["split"], r["task"]): r for r in rows}
    lines = [
        "| model | split | " + " | ".join(tasks) + " | chrF of translation |",
        "|---|---|" + "---|" * (len(tasks) + 1),
    ]
    for split in ("search", "test"):
        for model in NAMES:
            found = [cells[(model, split, task)] for task in tasks]
            scores = [f"{float(r['score']):.3f} ± {float(r['standard_error']):.3f}" for r in found]
            chrf = f"{float(found[0]['chrf']):.3f}"
            lines.append(f"| {model} | {split} | {' | '.join(scores)} | {chrf} |")
    return "\n".join(lines)


def levels_table(rows: Sequence[Row]) -> str:
    """Render the mean hypervolume over seeds, with minimum and maximum."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"Mean of {len(seeds)} seeds (minimum to maximum):",
        "",
        "| evaluations | merges | merges then paths | best mean score, merges | the same, paths |",
        "|---|---|---|---|---|",
    ]

    def values(method: str, count: float, column: str) -> list[float]:
        return [
            float(row[column])
            for row in rows
            if row["method"] == method and row["evaluations"] == count
        ]

    def shown(numbers: list[float]) -> str:
        return f"{np.mean(numbers):.3f} ({min(numbers):.3f} to {max(numbers):.3f})"

    own = values("experts", 0, "hypervolume")[0]
    mean = values("experts", 0, "best_mean")[0]
    lines.append(f"| experts only | {own:.3f} | {own:.3f} | {mean:.3f} | {mean:.3f} |")
    for count in sorted({float(row["evaluations"]) for row in rows} - {0.0}):
        cells = [
            shown(values(method, count, column))
            for column in ("hypervolume", "best_mean")
            for method in ("merges", "merges_then_paths")
        ]
        lines.append(f"| {count:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def insert(readme: Path, text: str) -> None:
    """Replace what stands between the two marks of a README.

    Raises:
        ValueError: The marks are missing.
    """
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} has no marks for the tables")
    readme.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")

"""Tables of a study: CSV files with every run, one Markdown table with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.common.committed import CURVES, HYPERVOLUMES, SECONDS, folded
from experiments.common.records import AnyRow, Row, select
from hm3rl.files import write_csv, write_text
from hm3rl.objectives.statistics import (
    Interval,
    improvement_interval,
    interquartile_interval,
    mean_interval,
)

COLUMNS = ("method", "seed", "budget", "split", "hypervolume")
PARTS = ("search", "model", "programs", "agent", "merging", "other", "other_ms_per_evaluation")
WHOLE = "whole_run"
"""Preparing, searching, and scoring the front on the test split."""
SPLITS = ("test", "search")

CAPTION = """Normalised hypervolume (f / z\\*, z\\* = best expert on each task of the same split;
reference 0), the experts' own points included. Interquartile mean over seeds with its 95 %
bootstrap interval. P: probability that a run of {first} beats a run of the method with the same
seed, test split, with its bootstrap interval; then their mean difference with the 95 % interval of
Student's t. Prefix: budgets read off longer searches whose decisions do not depend on the budget.
"""

Reference = Callable[[str], str]
"""The variant that a variant is compared with."""


def written(found: Interval, digits: int = 4) -> str:
    """A statistic and its interval: `0.7487 [0.7412, 0.7561]`."""
    if np.isnan(found.low):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def volumes(rows: Sequence[Row], split: str) -> np.ndarray:
    """Hypervolumes of records, shape (runs,)."""
    return np.array([row.hypervolume(split) for row in rows])


def write_hypervolumes(rows: Sequence[Row], results: Path) -> None:
    """Write hypervolume.csv: method, seed, budget, split, hypervolume."""
    results.mkdir(parents=True, exist_ok=True)
    cells = [
        [row.variant, row.seed, row.budget, split, f"{row.hypervolume(split):.6f}"]
        for row in rows
        for split in SPLITS
    ]
    write_csv(results / HYPERVOLUMES, COLUMNS, cells)


def write_seconds(rows: Sequence[Row], results: Path) -> None:
    """Write seconds.csv: where the time of each search went, and the commit it ran at."""
    names = (*PARTS, WHOLE, "commit")
    cells = [
        [row.variant, row.seed, row.budget, *(row.seconds.get(name, "") for name in names)]
        for row in timed(rows)
    ]
    write_csv(results / SECONDS, ("method", "seed", "budget", *names), cells)


def write_curves(rows: Sequence[Row], results: Path) -> None:
    """Write curves.csv: hypervolume and expected utility (search split) where they change."""
    cells = [
        [row.variant, row.seed, row.budget, n, f"{volume:.6f}", f"{utility:.6f}"]
        for row in rows
        if row.curves is not None and not row.is_prefix
        for n, volume, utility in folded(row.curves)
    ]
    columns = ("method", "seed", "budget", "evaluations", "hypervolume", "utility")
    write_csv(results / CURVES, columns, cells)


def timed(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """One row for each search whose whole time is known."""
    return [row for row in rows if row.seconds]


def time_line(rows: Sequence[Row]) -> str:
    """A sentence on the total time of a study's searches.

    Args:
        rows: Searches of the study.
    """
    counted = timed(rows)
    hours = sum(float(row.seconds[WHOLE]) for row in counted) / 3600
    resumed = sum(not row.is_prefix for row in rows) - len(counted)
    untimed = f"; {resumed} resumed not counted" if resumed else ""
    return f"Total time: {len(counted)} searches, {hours:.2f} hours of wall clock{untimed}."


def method_table(rows: Sequence[Row], reference: Reference) -> list[str]:
    """Lines of the Markdown table: each method at each budget, compared with its reference.

    Args:
        rows: Searches of the study.
        reference: Whom each variant is compared with, where both have a seed.
    """
    first = " or ".join(dict.fromkeys(f"`{reference(row.variant)}`" for row in rows))
    lines = [
        *CAPTION.format(first=first).splitlines(),
        "",
        "| method | budget | seeds | test | search | P | difference |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for budget in sorted({row.budget for row in rows}):
        for variant in dict.fromkeys(row.variant for row in select(rows, budget=budget)):
            some = select(rows, variant, budget)
            cells = [written(interquartile_interval([volumes(some, split)])) for split in SPLITS]
            other = reference(variant)
            own = {row.seed: row.hypervolume("test") for row in select(rows, other, budget)}
            pairs = [(own[r.seed], r.hypervolume("test")) for r in some if r.seed in own]
            cells += compared(pairs) if variant != other else ["", ""]
            name = variant + (" (prefix)" if some[0].is_prefix else "")
            lines.append(f"| {name} | {budget} | {len(some)} | {' | '.join(cells)} |")
    return lines


def compared(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Probability of improvement and mean difference of runs paired by seed."""
    if not pairs:
        return ["", ""]
    ours, theirs = np.array(pairs).T
    gap = mean_interval(ours - theirs)
    half = "" if math.isnan(gap.high) else f" ± {gap.high - gap.value:.4f}"
    probability = improvement_interval(ours, theirs, paired=True)
    return [written(probability, 2), f"{gap.value:+.4f}{half}"]


def write_table(rows: Sequence[Row], reference: Reference, results: Path) -> None:
    """Write table.md, and print it."""
    text = "\n".join([*method_table(rows, reference), "", time_line(rows)]) + "\n"
    write_text(results / "table.md", text)
    print(text)

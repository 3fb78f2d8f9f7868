"""How many evaluations hm3 needs for what another method has at the end; see README.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.common.committed import known
from experiments.common.figures import draw_curves
from experiments.common.plan import Context, Study
from experiments.common.records import Row
from experiments.common.report import longest
from experiments.common.tables import written
from experiments.fronts.study import STUDY as FRONTS
from hm3rl.errors import InputError
from hm3rl.files import write_csv, write_text
from hm3rl.objectives.statistics import (
    evaluations_to_reach,
    interquartile_interval,
    interquartile_mean,
)

FIRST = "hm3"
CHECKPOINTS = (30, 100, 300, 1000)


def curves(row: Row) -> np.ndarray:
    """Hypervolume and expected utility of a search, shape (2, budget).

    Raises:
        InputError: The search is known by its committed results only, which lack its curves.
    """
    if row.curves is None:
        raise InputError(
            f"no curves of {row.variant} at {row.budget}, seed {row.seed}",
            "run that search here: python -m experiments.run fronts "
            f"--methods {row.variant} --budgets {row.budget} --seeds {row.seed}",
        )
    return row.curves


def targets(rows: Sequence[Row]) -> dict[str, float]:
    """Each method's final search hypervolume, interquartile mean over seeds."""
    names = dict.fromkeys(row.variant for row in rows)
    finals = {name: [row.hypervolume("search") for row in longest(rows, name)] for name in names}
    return {name: float(interquartile_mean(np.array(values))) for name, values in finals.items()}


def shown(needed: Sequence[float]) -> str:
    """Median over runs and their range; a run that never got there counts as infinity."""
    low, middle, high = np.quantile(needed, [0.0, 0.5, 1.0], method="lower")
    text = [f"{value:.0f}" if np.isfinite(value) else "never" for value in (low, middle, high)]
    return f"{text[1]} ({text[0]} to {text[2]})"


def write(study: Study, context: Context) -> None:
    """Write evaluations.csv, expected_utility.csv, table.md, expected_utility.png."""
    rows = [row for row in known(study, context) if not row.is_prefix]
    ours = longest(rows, FIRST)
    cells: list[list[object]] = []
    lines = [
        f"| method | budget | its hypervolume at the end | evaluations {FIRST} needs for it, "
        "median (range) | share of its budget | its expected utility at the end |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    utility: list[list[object]] = []
    for name, target in targets(rows).items():
        theirs = longest(rows, name)
        budget = theirs[0].budget
        needed = [evaluations_to_reach(curves(row)[0], target) for row in ours]
        cells += [
            [name, budget, f"{target:.6f}", row.seed, count]
            for row, count in zip(ours, needed, strict=True)
        ]
        utilities = np.array([curves(row)[1] for row in theirs])
        utility += [
            [name, row.seed, n, f"{curve[n - 1]:.6f}"]
            for row, curve in zip(theirs, utilities, strict=True)
            for n in sorted({budget, *(n for n in CHECKPOINTS if n < budget)})
        ]
        median = float(np.quantile(needed, 0.5, method="lower"))
        share = f"{median / budget:.2f}" if np.isfinite(median) else "never"
        final = written(interquartile_interval([utilities[:, -1]]))
        line = f"| {name} | {budget} | {target:.4f} | {shown(needed)} | {share} | {final} |"
        lines.append(line)
    write_csv(
        context.results / "evaluations.csv",
        ["method", "budget", "hypervolume", "hm3_seed", "evaluations"],
        cells,
    )
    write_csv(
        context.results / "expected_utility.csv",
        ["method", "seed", "evaluations", "expected_utility"],
        utility,
    )
    write_text(context.results / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    draw_curves(
        {name: [curves(row)[1] for row in longest(rows, name)] for name in targets(rows)},
        "expected utility, weighted sum of f / z* (search split)",
        context.results / "expected_utility.png",
    )


STUDY = Study(
    name="sample_efficiency",
    variants=FRONTS.variants,
    write=write,
    runs=FRONTS.owner,
    adds=True,
)

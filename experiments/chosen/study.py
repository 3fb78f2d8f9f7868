"""What a user gets: the model chosen for a preference, judged on items that did not choose it.

A front scored again on the test split has the more hypervolume the more models it has, because the
best of many noisy scores is too good. A user takes one model for a preference, by its search
scores; what that one is worth has no such bias.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np

from experiments.common.figures import draw_bars
from experiments.common.methods import method
from experiments.common.plan import Context, Study
from experiments.common.records import LATTICE, Record, records, select
from experiments.common.tables import SPLITS, compared, written
from hm3rl.files import write_csv, write_text
from hm3rl.objectives.indicators import chosen_utility, expected_utility
from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.objectives.scalarisation import Scalarisation
from hm3rl.objectives.statistics import interquartile_interval

FIRST = "hm3"
SEEDS = {100: 5}
KINDS: dict[str, Scalarisation] = {"sum": "weighted_sum", "tchebycheff": "tchebycheff"}
COLUMNS = tuple(f"{what}_{kind}" for kind in KINDS for what in ("chosen", "best"))

CAPTION = f"""Front: models on it, experts included. Test: hypervolume of f / z\\* of the front,
scored again on the test split, reference 0. Chosen: utility on the test split of the model with the
largest utility on the search split, mean over a lattice of preferences ({LATTICE} divisions); best:
of the model with the largest on the test split, which nobody could choose. Sum: weighted sum of
f / z\\*; Tchebycheff: augmented, utopian point 1.1, 0 at that point. Interquartile means over seeds
with 95 % bootstrap intervals. Then, for the chosen model, the probability that a run of `{FIRST}`
beats the method's run with the same seed, and their mean difference with the 95 % interval of
Student's t.
"""


def front(record: Record) -> dict[str, np.ndarray]:
    """Scores f / z* of the sources and of the front's models by split, each of shape (N, K)."""
    with (record.folder / "front.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = record.summary["objectives"]
    points = {}
    for split in SPLITS:
        found = [scores[split] for scores in record.summary["sources"].values()]
        found += [[float(row[f"{split}_{name}"]) for name in names] for row in rows]
        points[split] = np.array(found) / np.array(record.summary["z_star"][split])
    return points


def utilities(record: Record) -> dict[str, float]:
    """The columns of utility.csv of one search."""
    points = front(record)
    preferences = simplex_lattice(len(record.summary["objectives"]), LATTICE)
    found = {}
    for name, kind in KINDS.items():
        found[f"chosen_{name}"] = chosen_utility(
            points["search"], points["test"], preferences, kind
        )
        found[f"best_{name}"] = expected_utility(points["test"], preferences, kind)
    return found


def write(study: Study, context: Context) -> None:
    """Write utility.csv, table.md and chosen.png."""
    rows = records(study, context.root)
    values = {(row.variant, row.budget, row.seed): utilities(row) for row in rows}
    sizes = {key: len(front(row)["test"]) for key, row in zip(values, rows, strict=True)}
    write_csv(
        context.results / "utility.csv",
        ["method", "seed", "budget", "hypervolume", "models", *COLUMNS],
        [
            [row.variant, row.seed, row.budget, f"{row.hypervolume('test'):.6f}", sizes[key]]
            + [f"{found[name]:.6f}" for name in COLUMNS]
            for row, (key, found) in zip(rows, values.items(), strict=True)
        ],
    )
    lines = [
        *CAPTION.splitlines(),
        "",
        "| method | budget | seeds | front | test | chosen, sum | best, sum | P | difference "
        "| chosen, Tchebycheff | best, Tchebycheff | P | difference |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for budget in sorted({row.budget for row in rows}):
        for variant in dict.fromkeys(row.variant for row in select(rows, budget=budget)):
            some = select(rows, variant, budget)
            models = np.mean([sizes[variant, budget, row.seed] for row in some])
            volumes = interquartile_interval([np.array([row.hypervolume("test") for row in some])])
            cells = [variant, str(budget), str(len(some)), f"{models:.0f}", written(volumes)]
            for kind in KINDS:
                cells += _cells(values, some, kind)
            lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    write_text(context.results / "table.md", text)
    print(text)
    bars: dict[str, list[float]] = {}
    for (variant, budget, _), found in values.items():
        bars.setdefault(f"{variant}, {budget}", []).append(found["chosen_sum"])
    label = "weighted sum of f / z*, chosen by search scores (test split)"
    draw_bars(bars, label, context.results / "chosen.png")


def _cells(
    values: dict[tuple[str, int, int], dict[str, float]], some: Sequence[Record], kind: str
) -> list[str]:
    """Chosen, best, and the comparison of the chosen with `FIRST`'s, of one row of the table."""
    own = [values[row.variant, row.budget, row.seed] for row in some]
    cells = [
        written(interquartile_interval([np.array([found[f"{what}_{kind}"] for found in own])]))
        for what in ("chosen", "best")
    ]
    if some[0].variant == FIRST:
        return [*cells, "", ""]
    first = {(row.budget, row.seed): values.get((FIRST, row.budget, row.seed)) for row in some}
    pairs = [
        (ours[f"chosen_{kind}"], theirs[f"chosen_{kind}"])
        for ours, theirs in zip(first.values(), own, strict=True)
        if ours is not None
    ]
    return [*cells, *compared(pairs)]


STUDY = Study(
    name="chosen",
    variants={name: method(name, SEEDS) for name in (FIRST, "parameter_only")},
    write=write,
    runs="fronts",
)

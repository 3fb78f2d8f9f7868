"""Seconds of a search against budget, experts and path length; see README.md."""

from __future__ import annotations

import numpy as np

from experiments.common.committed import known
from experiments.common.figures import draw_bars
from experiments.common.methods import method
from experiments.common.plan import Context, Study, Variant
from experiments.common.records import select
from experiments.common.tables import time_line, timed, write_hypervolumes, write_seconds
from experiments.pool_size.study import EXPERTS, sources
from hm3rl.files import write_text

PARTS = ("model", "programs", "agent", "other")

LENGTHS = {f"length_{n}": (f"paths.max_length={n}", "paths=any") for n in (8, 12, 16)}
POOLS = {f"hm3_{n}": ("search=hm3", *sources(n)) for n in (2, 4, 5)}
"""The same searches as in ../pool_size, under the same names."""


def write(study: Study, context: Context) -> None:
    """Write hypervolume.csv, seconds.csv, table.md and seconds.png."""
    rows = timed(known(study, context))
    write_hypervolumes(rows, context.results)
    write_seconds(rows, context.results)
    lines = [
        "| row | budget | seeds | seconds | " + " | ".join(f"{p}, ms" for p in PARTS) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(PARTS),
    ]
    bars: dict[str, list[float]] = {}
    for name, budget in dict.fromkeys((row.variant, row.budget) for row in rows):
        some = select(rows, name, budget)
        each = 1000 * np.array([[float(r.seconds[p]) for p in PARTS] for r in some]) / budget
        cells = [f"{value:.1f}" for value in each.mean(axis=0)]
        total = np.mean([float(row.seconds["search"]) for row in some])
        lines.append(f"| {name} | {budget} | {len(some)} | {total:.0f} | {' | '.join(cells)} |")
        bars[f"{name}, {budget}"] = [float(value) for value in each.sum(axis=1)]
    note = (
        "Means over seeds; milliseconds for each evaluation used. Merging and assembly are part "
        "of `other`."
    )
    text = "\n".join([*lines, "", note, time_line(rows)]) + "\n"
    write_text(context.results / "table.md", text)
    print("\n".join(lines))
    draw_bars(bars, "milliseconds an evaluation, everything", context.results / "seconds.png")


STUDY = Study(
    name="budget_scaling",
    variants={
        "hm3": method("hm3", {100: 3, 300: 3, 1000: 3}),
        **{name: Variant(words, {100: 3}) for name, words in LENGTHS.items()},
        **{
            name: Variant(words, {100: 3}, tasks=EXPERTS[: int(name[-1])])
            for name, words in POOLS.items()
        },
    },
    write=write,
    runs="fronts",
    adds=True,
)

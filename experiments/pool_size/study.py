"""Two to five experts, as many objectives; see README.md."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.common.figures import draw_bars
from experiments.common.methods import method
from experiments.common.plan import Context, Study, Variant
from experiments.common.records import Row, select
from experiments.common.report import write_tables
from experiments.common.tables import volumes
from hm3rl.objectives.statistics import interquartile_mean

EXPERTS = ("translation", "math", "code", "sorting", "reversal")
ROWS = ("hm3", "parameter_only", "random")
SIZES = (2, 4, 5)
SEEDS = {100: 3}


def sources(size: int) -> tuple[str, ...]:
    """Overrides that leave out the last experts and their tasks."""
    dropped = EXPERTS[size:]
    return (
        "pool=zoo5",
        "tasks=zoo5",
        *(f"~pool.experts.{name}" for name in dropped),
        *(f"~tasks.{name}" for name in dropped),
    )


def size_of(variant: str) -> int:
    """How many experts a row has."""
    _, _, size = variant.rpartition("_")
    return int(size) if size.isdigit() else 3


def named(method_name: str, size: int) -> str:
    """The row of a method with so many experts."""
    return method_name if size == 3 else f"{method_name}_{size}"


def over_random(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Test hypervolume of each run over the interquartile mean of random search.

    Volumes of different dimension cannot be compared, their ratios can.

    Returns:
        By row of the figure, ordered by experts; sizes of which no random search is known are left
        out.
    """
    ratios: dict[str, list[float]] = {}
    for size in sorted({size_of(row.variant) for row in rows}):
        chance = volumes(select(rows, named("random", size)), "test")
        for name in ROWS[:-1] if len(chance) else ():
            own = volumes(select(rows, named(name, size)), "test")
            if len(own):
                ratios[f"{name}, {size} experts"] = list(own / interquartile_mean(chance))
    return ratios


def write(study: Study, context: Context) -> None:
    """Write the tables and over_random.png; each size has a reference of its own."""
    rows = write_tables(study, context, lambda variant: named("hm3", size_of(variant)))
    draw_bars(
        over_random(rows),
        "hypervolume over that of random search (test split)",
        context.results / "over_random.png",
        start=1.0,
        start_label="random search",
    )


STUDY = Study(
    name="pool_size",
    variants={
        **{name: method(name, SEEDS) for name in ROWS},  # three experts, as in ../fronts
        **{
            named(name, size): Variant(
                (f"search={name}", *sources(size)), SEEDS, tasks=EXPERTS[:size]
            )
            for size in SIZES
            for name in ROWS
        },
    },
    write=write,
    runs="fronts",
    adds=True,
)

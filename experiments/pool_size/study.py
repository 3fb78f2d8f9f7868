"""Two to five experts, as many objectives; see README.md."""

from __future__ import annotations

from experiments.common.methods import method
from experiments.common.plan import Context, Study, Variant
from experiments.common.report import write_methods

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


def same_size(variant: str) -> str:
    """The row of hm3 with as many experts."""
    _, _, size = variant.rpartition("_")
    return f"hm3_{size}" if size.isdigit() else "hm3"


def write(study: Study, context: Context) -> None:
    """Write the tables and curves; each size has a reference of its own."""
    write_methods(study, context, same_size)


STUDY = Study(
    name="pool_size",
    variants={
        **{name: method(name, SEEDS) for name in ROWS},  # three experts, as in ../fronts
        **{
            f"{name}_{size}": Variant(
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

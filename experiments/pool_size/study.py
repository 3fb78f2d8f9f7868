"""Two to five experts, as many objectives; see README.md."""

from __future__ import annotations

from experiments.common.plan import Context, Study, Variant
from experiments.common.report import write_methods

EXPERTS = ("translation", "math", "code", "sorting", "reversal")
METHODS = ("hm3", "parameter_only", "random")
SIZES = (2, 3, 4, 5)


def sources(size: int) -> tuple[str, ...]:
    """Overrides that leave out the last experts and their tasks."""
    dropped = EXPERTS[size:]
    return (
        "pool=zoo5",
        "tasks=zoo5",
        *(f"~pool.experts.{name}" for name in dropped),
        *(f"~tasks.{name}" for name in dropped),
    )


def write(study: Study, context: Context) -> None:
    """Write the tables and curves; each size has a reference of its own."""
    write_methods(study, context, lambda variant: f"hm3_{variant.rpartition('_')[2]}")


STUDY = Study(
    name="pool_size",
    variants={
        f"{method}_{size}": Variant(
            (f"search={method}", *sources(size)), {100: 3}, tasks=EXPERTS[:size]
        )
        for size in SIZES
        for method in METHODS
    },
    write=write,
    runs="fronts",
)

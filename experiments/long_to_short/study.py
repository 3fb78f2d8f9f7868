"""Right answers against short ones on the tiny zoo, at equal budgets; see README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.common.plan import Context, Study, Variant
from experiments.common.records import Record, records
from experiments.common.report import write_methods_only
from hm3rl.files import RunFolder, write_csv, write_text

SEEDS = {30: 5}
TASKS = ("sums",)
SUMS, LENGTH = "sums", "length"
THINKING = "thinking"

FIXED = (
    "search=grid",
    "search.parameter.operators=[task_arithmetic,ties,dare_ties]",
    "search.parameter.weights=simplex",
    *(f"search.parameter.scale_{end}=1" for end in ("min", "max")),
    *(f"search.parameter.density_{end}=0.5" for end in ("min", "max")),
)
"""What nobody searches for: task arithmetic, TIES and DARE-TIES of both experts alike, scale 1 and
density 0.5; and each expert trimmed by the latter two. With the experts themselves that is the
whole first level of the grid."""


def rows_for(words: Sequence[str], seeds: Mapping[int, int]) -> Variant:
    """A row of the study."""
    return Variant(("experiment=long_to_short", *words), seeds, tasks=TASKS)


def chosen(record: Record) -> dict[str, float] | None:
    """The shortest model of a front that is as often right as the expert that thinks.

    It is chosen by search scores, ties by accuracy.

    Returns:
        Test accuracy and tokens of the model (`sums`, `length`) and of the expert (`thinking_sums`,
        `thinking_length`); None if no model of the front is as often right.
    """
    expert = record.summary["sources"][THINKING]
    worst = record.summary["minimised"][LENGTH]["worst"]
    front = RunFolder(record.folder).read_front()
    able = [row for row in front if float(row[f"search_{SUMS}"]) >= expert["search"][0] - 1e-6]
    if not able:
        return None
    best = max(able, key=lambda row: (float(row[f"search_{LENGTH}"]), float(row[f"search_{SUMS}"])))
    return {
        SUMS: float(best[f"test_{SUMS}"]),
        LENGTH: worst * (1.0 - float(best[f"test_{LENGTH}"])),
        f"{THINKING}_{SUMS}": expert["test"][0],
        f"{THINKING}_{LENGTH}": worst * (1.0 - expert["test"][1]),
    }


def write(study: Study, context: Context) -> None:
    """Write what all studies do, and shorter.csv and shorter.md: see `chosen`."""
    write_methods_only(study, context)
    found = [(record, chosen(record)) for record in records(study, context.root)]
    columns = (SUMS, LENGTH, f"{THINKING}_{SUMS}", f"{THINKING}_{LENGTH}")
    cells: list[list[str]] = []
    lines = [
        "| method | budget | seed | right | tokens | thinking: right | tokens | shorter by |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for record, one in found:
        name = [record.variant, str(record.budget), str(record.seed)]
        values = ["" if one is None else f"{one[column]:.4f}" for column in columns]
        cells.append([*name, *values])
        saved = ""
        if one is not None:  # front.csv is rounded, and 0 has no sign
            saved = f"{round(1 - one[LENGTH] / one[f'{THINKING}_{LENGTH}'], 2) + 0.0:.0%}"
        lines.append("| " + " | ".join([*name, *values, saved]) + " |")
    write_csv(context.results / "shorter.csv", ("method", "budget", "seed", *columns), cells)
    write_text(context.results / "shorter.md", "\n".join(lines) + "\n")


STUDY = Study(
    name="long_to_short",
    variants={
        "hm3": rows_for(("search=hm3",), SEEDS),
        "nsga2": rows_for(("search=nsga2",), SEEDS),
        "none": rows_for(("agent=none",), SEEDS),
        "fixed": rows_for(FIXED, {7: 1}),
    },
    write=write,
)

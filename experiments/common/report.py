"""What most studies write: every run's hypervolume, a table of methods, curves, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.common.figures import draw_curves
from experiments.common.plan import Context, Study
from experiments.common.records import Record, records, select
from experiments.common.tables import Reference, write_hypervolumes, write_seconds, write_table

HYPERVOLUME = "hypervolume of f / z*, reference 0 (search split)"


def longest(rows: Sequence[Record], variant: str) -> list[Record]:
    """The records of a variant at its largest budget."""
    own = select(rows, variant)
    return select(own, budget=max(row.budget for row in own))


def write_methods(
    study: Study, context: Context, reference: Reference | None = None
) -> list[Record]:
    """Write hypervolume.csv, table.md, seconds.csv and hypervolume.png.

    Searches of budgets beyond the study's plan have a figure of their own, hypervolume_BUDGET.png.

    Args:
        study: The study.
        context: Where runs are and results go.
        reference: Whom each variant is compared with; None: all with the study's first.

    Returns:
        The records.
    """
    rows = records(study, context.root)
    first = next(iter(study.variants))
    write_hypervolumes(rows, context.results)
    write_seconds(rows, context.results)
    write_table(rows, reference or (lambda variant: first), context.results)
    planned = {
        b for variant in study.variants.values() for b in (*variant.seeds, *variant.prefixes)
    }
    _draw(study, [r for r in rows if r.budget in planned], context.results / "hypervolume.png")
    for budget in sorted({row.budget for row in rows} - planned):
        _draw(study, select(rows, budget=budget), context.results / f"hypervolume_{budget}.png")
    return rows


def _draw(study: Study, rows: Sequence[Record], target: Path) -> None:
    curves = {
        name: [row.hypervolume_curve for row in longest(rows, name)]
        for name in study.variants
        if select(rows, name)
    }
    if curves:
        draw_curves(curves, HYPERVOLUME, target)


def write_methods_only(study: Study, context: Context) -> None:
    """`write_methods` for studies that write nothing else."""
    write_methods(study, context)

"""What most studies write: every run's hypervolume, a table of methods, curves, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.common.committed import known
from experiments.common.figures import draw_curves
from experiments.common.plan import Context, Study
from experiments.common.records import AnyRow, Row, select
from experiments.common.tables import (
    Reference,
    write_curves,
    write_hypervolumes,
    write_seconds,
    write_table,
)

HYPERVOLUME = "hypervolume of f / z*, reference 0 (search split)"


def longest(rows: Sequence[AnyRow], variant: str) -> list[AnyRow]:
    """The searches of a variant at its largest budget."""
    own = select(rows, variant)
    return select(own, budget=max(row.budget for row in own))


def write_methods(study: Study, context: Context) -> list[Row]:
    """Write hypervolume.csv, table.md, seconds.csv, curves.csv and hypervolume.png.

    Searches of budgets beyond the study's plan have a figure of their own, hypervolume_BUDGET.png.
    A figure of which some curves are missing is left as it is.

    Args:
        study: The study.
        context: Where runs are and results go.

    Returns:
        The searches.
    """
    first = next(iter(study.variants))
    rows = write_tables(study, context, lambda variant: first)
    planned = {
        b for variant in study.variants.values() for b in (*variant.seeds, *variant.prefixes)
    }
    _draw(study, [r for r in rows if r.budget in planned], context.results / "hypervolume.png")
    for budget in sorted({row.budget for row in rows} - planned):
        _draw(study, select(rows, budget=budget), context.results / f"hypervolume_{budget}.png")
    return rows


def write_tables(study: Study, context: Context, reference: Reference) -> list[Row]:
    """Write hypervolume.csv, table.md, seconds.csv and curves.csv.

    Args:
        study: The study.
        context: Where runs are and results go.
        reference: Whom each variant is compared with.

    Returns:
        The searches.
    """
    rows = known(study, context)
    write_hypervolumes(rows, context.results)
    write_seconds(rows, context.results)
    write_curves(rows, context.results)
    write_table(rows, reference, context.results)
    return rows


def _draw(study: Study, rows: Sequence[Row], target: Path) -> None:
    drawn = {name: longest(rows, name) for name in study.variants if select(rows, name)}
    lacking = [name for name, some in drawn.items() if any(row.curves is None for row in some)]
    if lacking:
        print(f"{target.name} stays as it is: nobody kept all curves of {', '.join(lacking)}")
    elif drawn:
        curves = {
            name: [row.curves[0] for row in some if row.curves is not None]
            for name, some in drawn.items()
        }
        draw_curves(curves, HYPERVOLUME, target)


def write_methods_only(study: Study, context: Context) -> None:
    """`write_methods` for studies that write nothing else."""
    write_methods(study, context)

"""The one table of the bench: methods on the pools of a set, with intervals.

    python -m experiments.pools.table --set development --budgets 40 100 --reference hm3

Writes `results/table_SET.md`, and puts it into README.md where that has room for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.common.tables import written
from experiments.pools import results
from experiments.pools.methods import METHODS
from experiments.pools.pools import SETS
from experiments.pools.reference import LEAST
from experiments.pools.statistics import (
    Shares,
    basic,
    over_tasks,
    ranks,
    shares,
    shares_over_items,
    wins,
    without_each,
)
from hm3rl.files import write_text
from hm3rl.objectives.statistics import Interval

README = Path(__file__).parent / "README.md"

CAPTION = f"""Share s: how much of what all methods together gain over the experts a method gains by
itself, in hypervolume on held-out items, (hv - hv_experts) / (hv_ref - hv_experts); mean over
pools. Rank: mean over pools, 1 is best. P: share of the pools on which `{{reference}}` is better.
Difference: share of `{{reference}}` minus the method's. In brackets 95 % basic bootstrap intervals
of tasks drawn again; without one task: the least and the largest difference when all pools with a
task are left out; items: interval when only the held-out items are drawn again. Pools where there
is less than {LEAST:g} to gain stand below.
"""


def lines(
    kind: str,
    budgets: Sequence[int],
    reference: str,
    folder: Path = results.RESULTS,
    methods: Sequence[str] = (),
) -> list[str]:
    """Lines of the Markdown table.

    Args:
        kind: The set.
        budgets: Budgets; those without results are passed over.
        reference: The method that all others are compared with.
        folder: Folder of the results.
        methods: These alone, on the pools that all of them have been on; empty: all that have rows.
    """
    found = [*CAPTION.format(reference=reference).splitlines(), ""]
    found += [
        f"| method | budget | pools | share s | rank | P | {reference} minus it "
        "| without one task | items |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    notes: list[str] = []
    for budget in budgets:
        table = shares(kind, budget, methods, folder)
        if len(table.pools):
            found += _rows(table, budget, reference, folder)
        notes += _notes(table, budget)
    return [*found, "", *notes] if notes else found


def _rows(table: Shares, budget: int, reference: str, folder: Path) -> list[str]:
    """Rows of one budget, best share first."""
    places, drawn = ranks(table.values), shares_over_items(table, budget, folder=folder)
    found = []
    for column in np.argsort(-table.values.mean(axis=0), kind="stable"):
        method = table.methods[column]
        cells = [method, str(budget), str(len(table.pools))]
        cells.append(written(over_tasks(table.values[:, column], table.tasks), 3))
        cells.append(written(over_tasks(places[:, column], table.tasks), 2))
        if method == reference or reference not in table.methods:
            found.append(f"| {' | '.join([*cells, '', '', '', ''])} |")
            continue
        gap = table.of(reference) - table.of(method)
        better = over_tasks(wins(table.of(reference), table.of(method)), table.tasks)
        within = Interval(better.value, *np.clip([better.low, better.high], 0.0, 1.0))
        left = without_each(gap, table.tasks).values()
        own = drawn[:, table.methods.index(reference)] - drawn[:, column]
        items = basic(float(gap.mean()), own)
        cells += [written(within, 2), written(over_tasks(gap, table.tasks), 3)]
        cells.append(f"{min(left):.3f} to {max(left):.3f}" if left else "")
        cells.append(f"[{items.low:.3f}, {items.high:.3f}]")
        found.append(f"| {' | '.join(cells)} |")
    return found


def _notes(table: Shares, budget: int) -> list[str]:
    """What a budget's rows leave out."""
    found = []
    for name, (measure, volumes) in table.apart.items():
        own = ", ".join(f"{method} {volume:.3f}" for method, volume in volumes.items())
        found.append(
            f"- {name} at {budget} stands apart, little is to be gained there: experts "
            f"{measure.experts:.3f}, all together {measure.best:.3f}; {own}"
        )
    if table.lacking:
        found.append(f"- At {budget} lack results or a reference: {', '.join(table.lacking)}")
    return found


def insert(readme: Path, kind: str, text: str) -> bool:
    """Put a table between the marks of a README; returns whether it has them."""
    begin, end = f"<!-- table {kind} -->", f"<!-- end of table {kind} -->"
    before, mark, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, other, after = rest.partition(end)
    if not (mark and other):
        return False
    write_text(readme, f"{before}{begin}\n\n{text}\n\n{end}{after}")
    return True


def main(words: Sequence[str] | None = None) -> None:
    """Write the table of a set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--budgets", nargs="+", type=int, default=[40, 100, 300])
    parser.add_argument("--reference", default="hm3")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[])
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    args = parser.parse_args(words)
    text = "\n".join(lines(args.set, args.budgets, args.reference, args.results, args.methods))
    write_text(args.results / f"table_{args.set}.md", text + "\n")
    if args.results.resolve() == results.RESULTS.resolve():
        insert(README, args.set, text)
    print(text)


if __name__ == "__main__":
    main()

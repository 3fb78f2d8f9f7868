"""The figure of the bench: share s against evaluations, for the mean of the pools and for each.

`python -m experiments.pools.figure --set development` writes `results/share_development.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.common.figures import style
from experiments.pools import results
from experiments.pools.methods import METHODS
from experiments.pools.pools import SETS, Pool
from experiments.pools.statistics import Shares, shares

COLUMNS = 4


def draw(found: dict[int, Shares], target: Path) -> None:
    """Draw small multiples.

    Args:
        found: Shares of a set by budget, each with at least one pool.
        target: PNG file.
    """
    every = list(dict.fromkeys(pool for one in found.values() for pool in one.pools))
    methods = list(dict.fromkeys(method for one in found.values() for method in one.methods))
    panels: list[Pool | None] = [None, *every]
    height = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(
        height,
        COLUMNS,
        figsize=(2.5 * COLUMNS + 1.4, 2.1 * height + 0.3),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for place, axis in enumerate(axes.flat):
        if place < len(panels):
            _panel(axis, found, panels[place], methods)
        else:
            axis.set_axis_off()
    figure.supxlabel("evaluations used", fontsize=9)
    figure.supylabel("share s (held-out items)", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def _panel(axis: Axes, found: dict[int, Shares], pool: Pool | None, methods: Sequence[str]) -> None:
    """One pool, or the mean of all that are there at a budget; every method starts at 0."""
    for number, method in enumerate(methods):
        x, y = [0], [0.0]
        for budget in sorted(found):
            one = found[budget]
            if method in one.methods and (pool is None or pool in one.pools):
                own = one.of(method)
                x.append(budget)
                y.append(float(own.mean() if pool is None else own[one.pools.index(pool)]))
        axis.plot(x, y, marker=".", label=method, **style(number))
    title = "mean of pools" if pool is None else f"{pool.name}: {', '.join(pool.experts)}"
    axis.set_title(title, fontsize=7 if pool else 9)
    axis.axhline(1.0, color="black", linewidth=0.6, linestyle=":")
    if found:
        axis.set_xticks([0, *sorted(found)])


def main(words: Sequence[str] | None = None) -> None:
    """Draw the figure of a set."""
    parser = argparse.ArgumentParser(description="Share s against evaluations.")
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--budgets", nargs="+", type=int, default=[40, 100, 300])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[], help="these alone")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    args = parser.parse_args(words)
    found = {b: shares(args.set, b, args.methods, args.results) for b in args.budgets}
    shown = {budget: one for budget, one in found.items() if len(one.pools)}
    draw(shown, args.results / f"share_{args.set}.png")


if __name__ == "__main__":
    main()

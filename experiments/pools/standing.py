"""What stands in `results/methods.csv` so far, before there is a reference to measure shares by.

python -m experiments.pools.standing --budget 40 --methods hm3 layer_bo parameter_only
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.pools import results
from experiments.pools.methods import METHODS
from experiments.pools.pools import DEVELOPED, SETS, pools
from experiments.pools.results import HELD_OUT, Key
from experiments.pools.statistics import ranks

COMPLETE = (
    *("parameter_only", "layer_bo", "map", "nsga2", "none_members", "annealing", "depth_wise"),
    *("hm3", "uniform"),
)


def standing(kind: str, methods: Sequence[str], budget: int, seed: int, folder: Path) -> str:
    """A table of held-out hypervolumes, and mean ranks over the pools that have all methods.

    Args:
        kind: The set of pools.
        methods: Its columns.
        budget: Evaluations.
        seed: Seed of the searches.
        folder: Folder of the results.

    Returns:
        Markdown; an empty cell is a row that is missing.
    """
    have = results.known(folder)
    found = {
        name: [have.get((Key(name, method, seed, budget), HELD_OUT)) for method in methods]
        for name in pools(kind)
    }
    lines = [f"| pool | {' | '.join(methods)} |", "|---|" + "---:|" * len(methods)]
    for name, cells in found.items():
        if any(cells):
            shown = " | ".join(f"{cell[0]:.3f}" if cell else "" for cell in cells)
            lines.append(f"| {name} | {shown} |")
    whole = [[cell[0] for cell in cells if cell] for cells in found.values() if all(cells)]
    if whole:
        mean = ranks(np.array(whole)).mean(axis=0)
        ranked = ", ".join(f"{name} {rank:.1f}" for name, rank in zip(methods, mean, strict=True))
        lines += ["", f"Mean ranks over {len(whole)} pools: {ranked}"]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What stands in methods.csv so far.")
    parser.add_argument("--set", choices=SETS, default=DEVELOPED)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*COMPLETE])
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    args = parser.parse_args(words)
    print(standing(args.set, args.methods, args.budget, args.seed, args.results))


if __name__ == "__main__":
    main()

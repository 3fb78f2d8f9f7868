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


def pairs(kind: str, methods: Sequence[str], budget: int, seed: int, folder: Path) -> str:
    """On how many pools the first method is ahead of each other one; see `standing`."""
    have = results.known(folder)
    first, *others = methods
    lines = []
    for other in others:
        keys = [[Key(pool, name, seed, budget) for name in (first, other)] for pool in pools(kind)]
        both = [
            [have[key, HELD_OUT][0] for key in two]
            for two in keys
            if all((key, HELD_OUT) in have for key in two)
        ]
        if both:
            ahead, means = sum(a > b for a, b in both), np.array(both).mean(axis=0)
            lines.append(
                f"{first} is ahead of {other} on {ahead} of {len(both)} pools "
                f"(means {means[0]:.3f}, {means[1]:.3f})"
            )
    return "\n".join(lines)


def proposers(kind: str, method: str, budget: int, seed: int, folder: Path) -> str:
    """Who chose the evaluations of a method, by pool."""
    lines = []
    for pool in pools(kind):
        front = results.fronts(pool, folder).get(Key(pool, method, seed, budget))
        if front is not None and front.about.get("chosen_by"):
            counts = sorted(front.about["chosen_by"].items())
            lines.append(f"{pool} {method}: " + ", ".join(f"{who} {n}" for who, n in counts))
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What stands in methods.csv so far.")
    parser.add_argument("--set", choices=SETS, default=DEVELOPED)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*COMPLETE])
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--who", action="store_true", help="who chose the first's evaluations")
    args = parser.parse_args(words)
    about = (args.budget, args.seed, args.results)
    print(standing(args.set, args.methods, *about))
    print(f"\n{pairs(args.set, args.methods, *about)}")
    if args.who:
        print(f"\n{proposers(args.set, args.methods[0], *about)}")


if __name__ == "__main__":
    main()

"""Make the table, the CSV files and the figure of this folder from finished runs.

python -m experiments.first_front.table --budget 300
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from experiments.first_front.run import METHODS
from hm3rl.runs import write_csv, write_text

RESULTS = Path(__file__).parent / "results"
SECONDS = ("search", "model", "programs", "agent", "other", "other_ms_per_evaluation")
STYLE = {
    "hm3": ("#009e73", "-"),
    "parameter_only": ("#0072b2", "--"),
    "architecture_only": ("#e69f00", ":"),
    "no_offline": ("#cc79a7", "-."),
    "random": ("#777777", (0, (1, 2))),
}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval, Student's t over seeds."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return float(array.mean()), float("nan")
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return float(array.mean()), float(half)


def load(root: Path, budget: int) -> dict[str, dict[int, Path]]:
    """Folders of the finished runs, by method and seed."""
    found: dict[str, dict[int, Path]] = {}
    for method in METHODS:
        for path in sorted(root.glob(f"{method}-{budget}-seed*/summary.json")):
            seed = json.loads(path.read_text())["seed"]
            found.setdefault(method, {})[seed] = path.parent
    return found


def curve(folder: Path, budget: int) -> np.ndarray:
    """Hypervolume on the search split after 1 ... budget evaluations, shape (budget,)."""
    values = np.full(budget, np.nan)
    with (folder / "evaluations.csv").open() as stream:
        for row in csv.DictReader(stream):
            if int(row["charged"]):
                values[int(row["charged"]) - 1] = float(row["hypervolume"])
    return values


def draw(runs: dict[str, dict[int, Path]], budget: int) -> None:
    """Hypervolume against evaluations, mean over seeds with its 95 % interval."""
    figure, axis = plt.subplots(figsize=(6.8, 4.2), layout="constrained")
    x = np.arange(1, budget + 1)
    for method, folders in runs.items():
        curves = np.array([curve(folder, budget) for folder in folders.values()])
        mean = curves.mean(axis=0)
        colour, line = STYLE[method]
        axis.plot(x, mean, color=colour, linestyle=line, label=method)
        if len(curves) > 1:
            half = stats.t.ppf(0.975, len(curves) - 1) * curves.std(axis=0, ddof=1)
            half /= np.sqrt(len(curves))
            axis.fill_between(x, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel("evaluations charged")
    axis.set_ylabel("hypervolume of f / z*, reference 0 (search split)")
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(RESULTS / "hypervolume.png", dpi=120)
    plt.close(figure)


def main() -> None:
    """Write results/hypervolume.csv, seconds.csv, table.md and hypervolume.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--root", type=Path, default=Path("runs/first_front"))
    args = parser.parse_args()
    runs = load(args.root, args.budget)
    RESULTS.mkdir(exist_ok=True)
    volumes: list[list[object]] = []
    times: list[list[object]] = []
    by_method: dict[str, dict[str, dict[int, float]]] = {}
    for method, folders in runs.items():
        for seed, folder in folders.items():
            summary = json.loads((folder / "summary.json").read_text())
            for split in ("search", "test"):
                value = summary["hypervolume"][split]
                by_method.setdefault(method, {}).setdefault(split, {})[seed] = value
                volumes.append([method, seed, args.budget, split, f"{value:.6f}"])
            spent = summary["seconds"]
            if summary.get("resumed"):
                continue  # its clocks only know the last life
            times.append([method, seed, args.budget, *(spent[key] for key in SECONDS)])
    write_csv(
        RESULTS / "hypervolume.csv", ["method", "seed", "budget", "split", "hypervolume"], volumes
    )
    write_csv(
        RESULTS / "seconds.csv",
        ["method", "seed", "budget", *SECONDS],
        times,
    )
    lines = [
        "| method | seeds | test | search | hm3 minus it, test, paired by seed |",
        "|---|---:|---:|---:|---:|",
    ]
    for method, splits in by_method.items():
        cells = []
        for split in ("test", "search"):
            mean, half = interval(list(splits[split].values()))
            cells.append(f"{mean:.4f} ± {half:.4f}")
        both = sorted(set(splits["test"]) & set(by_method.get("hm3", {}).get("test", {})))
        gaps = [by_method["hm3"]["test"][s] - splits["test"][s] for s in both]
        mean, half = interval(gaps) if gaps else (float("nan"), float("nan"))
        paired = "" if method == "hm3" else f"{mean:+.4f} ± {half:.4f}"
        lines.append(f"| {method} | {len(splits['test'])} | {cells[0]} | {cells[1]} | {paired} |")
    write_text(RESULTS / "table.md", "\n".join(lines) + "\n")
    draw(runs, args.budget)
    print("\n".join(lines))


if __name__ == "__main__":
    main()

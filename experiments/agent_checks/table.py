"""Collect the runs into results/checks.csv and print the tables, which are results/checks.md too.

    python -m experiments.agent_checks.table

Means over the seeds with 95 % intervals of Student's t. Known bests are computed anew.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.agent_checks import environments
from experiments.agent_checks.run import PROBLEMS, ROOT
from hm3rl.files import write_csv, write_text

RESULTS = Path(__file__).parent / "results"
COLUMNS = ["problem", "variant", "seed", "metric", "value"]

SYNTHETIC = ["greedy", "decoded", "archive", "offline/greedy", "greedy_above_archive"]
SHOWN = {
    "deep_sea_treasure": ["hypervolume", "utility", "points"],
    "fruit_tree": ["offline/utility", "online/utility", "utility", "points"],
    "concave": ["points", "online/points", "tchebycheff", "hypervolume"],
    "synthetic": SYNTHETIC,
    "synthetic_16": SYNTHETIC,
}
"""Measures in the printed tables, by problem; the CSV has all."""

TIMES = ("seconds", "agent_seconds")
"""Not in the tables: they depend on what else ran."""


def read_runs(root: Path) -> list[list[str]]:
    """Rows of all finished runs, in the order of problems, variants and seeds."""
    rows = []
    for problem, variants in PROBLEMS.items():
        for variant in variants:
            files = sorted((root / problem / variant).glob("*.json"), key=lambda f: int(f.stem))
            for file in files:
                found = json.loads(file.read_text(encoding="utf-8"))
                rows += [
                    [problem, variant, file.stem, metric, repr(round(value, 6))]
                    for metric, value in found.items()
                    if metric not in TIMES
                ]
    return rows


def known_rows() -> list[list[str]]:
    """Rows of the known bests; their seed is empty."""
    return [
        [problem, f"best_{variant}", "", metric, repr(round(value, 6))]
        for problem in environments.PROTOCOLS
        for variant, found in environments.known(problem).items()
        for metric, value in found.items()
    ]


def interval(values: np.ndarray) -> str:
    """Mean and half the width of its 95 % interval."""
    mean = f"{values.mean():.4g}" if abs(values.mean()) >= 1000 else f"{values.mean():.3f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.3f}"


def tables(rows: list[list[str]]) -> list[str]:
    """One table in Markdown for each problem that has rows."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    variants: dict[str, list[str]] = defaultdict(list)
    for problem, variant, _, metric, value in rows:
        values[problem, variant, metric].append(float(value))
        if variant not in variants[problem]:
            variants[problem].append(variant)
    lines: list[str] = []
    for problem, names in variants.items():
        metrics = SHOWN[problem]
        lines += ["", f"**{problem}**", "", f"| variant | seeds | {' | '.join(metrics)} |"]
        lines.append("|---|" + "---:|" * (1 + len(metrics)))
        for variant in names:
            found = [np.array(values[problem, variant, metric]) for metric in metrics]
            seeds = "known" if variant.startswith("best_") else max(len(one) for one in found)
            cells = [interval(one) if len(one) else "" for one in found]
            lines.append(f"| {variant} | {seeds} | {' | '.join(cells)} |")
    return lines[1:]


def main() -> None:
    """Write checks.csv and checks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--print-only", action="store_true", help="print the tables of the committed CSV"
    )
    args = parser.parse_args()
    if args.print_only:
        with (args.out / "checks.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        print("\n".join(tables(rows)))
        return
    rows = sorted([*known_rows(), *read_runs(args.root)], key=lambda row: list(SHOWN).index(row[0]))
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "checks.csv", COLUMNS, rows)
    lines = tables(rows)
    write_text(args.out / "checks.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

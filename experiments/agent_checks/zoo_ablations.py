"""Ablations on the tiny zoo: hm3 without one of its parts, everything else equal.

    python -m experiments.agent_checks.zoo_ablations --seeds 0 1 2 3 4
    python -m experiments.agent_checks.zoo_ablations --table

Finished searches are skipped, killed ones continued. `--table` writes results/zoo_ablations.csv and
zoo_ablations.md from what is finished, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from experiments.agent_checks.table import COLUMNS, RESULTS, interval
from hm3rl.runs import write_csv, write_text

VARIANTS: dict[str, list[str]] = {
    "hm3": [],
    "no_offline": ["search=no_offline"],
    "no_screening": ["agent.screening.enabled=false"],
    "stem_fixed": ["paths.stem=translation"],
    "one_merged_member": ["search.parameter.members=1"],
}
"""Overrides of `experiment=agent_ablations` by variant."""


def run_one(variant: str, seed: int, root: Path, extra: list[str]) -> str:
    """Run, continue or skip one search in a process of its own.

    Returns:
        A line that says what happened.
    """
    folder = root / f"{variant}-seed{seed}"
    if (folder / "summary.json").is_file():
        return f"{variant} seed {seed}: finished before"
    words = [f"resume={folder}"]
    if not (folder / "config.yaml").is_file():
        base = ["experiment=agent_ablations", f"output={folder}", f"seed={seed}"]
        words = [*base, *VARIANTS[variant], *extra]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "hm3rl.cli", "search", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{variant} seed {seed} failed ({done.returncode}):\n{done.stderr}")
    return f"{variant} seed {seed}: {time.perf_counter() - begun:.0f} s"


def collect(root: Path) -> list[list[str]]:
    """Rows of the finished searches."""
    rows = []
    for variant in VARIANTS:
        for file in sorted(root.glob(f"{variant}-seed*/summary.json")):
            summary = json.loads(file.read_text(encoding="utf-8"))
            for split in ("test", "search"):
                value = f"{summary['hypervolume'][split]:.6f}"
                metric = f"hypervolume_{split}"
                rows.append(["tiny_zoo", variant, str(summary["seed"]), metric, value])
    return rows


def table(rows: list[list[str]]) -> list[str]:
    """Test hypervolumes, and what hm3 has more, paired by seed."""
    found: dict[str, dict[str, float]] = {}
    for _, variant, seed, metric, value in rows:
        if metric == "hypervolume_test":
            found.setdefault(variant, {})[seed] = float(value)
    lines = [
        "| variant | seeds | test hypervolume | hm3 minus it, paired |",
        "|---|---:|---:|---:|",
    ]
    for variant, values in found.items():
        both = sorted(values.keys() & found.get("hm3", {}).keys())
        gaps = np.array([found["hm3"][seed] - values[seed] for seed in both])
        paired = interval(gaps) if len(gaps) and variant != "hm3" else ""
        mean = interval(np.array(list(values.values())))
        lines.append(f"| {variant} | {len(values)} | {mean} | {paired} |")
    return lines


def main() -> None:
    """Run the searches one after the other, or make the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--root", type=Path, default=Path("runs/agent_ablations"))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("overrides", nargs="*", help="further Hydra overrides")
    args = parser.parse_args()
    if not args.table:
        for seed in args.seeds:
            for variant in args.variants:
                print(run_one(variant, seed, args.root, args.overrides), flush=True)
        return
    rows = collect(args.root)
    if not rows:
        parser.error(f"no finished search in {args.root}; run this without --table first")
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "zoo_ablations.csv", COLUMNS, rows)
    lines = table(rows)
    write_text(args.out / "zoo_ablations.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

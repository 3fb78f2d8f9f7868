"""Run the agent checks; what is finished is skipped, so a killed run is continued by its command.

    python -m experiments.agent_checks.run
    python -m experiments.agent_checks.run --problem synthetic --variant full plain --seeds 0 1

One JSON file for each problem, variant and seed; `experiments.agent_checks.table` collects them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from experiments.agent_checks import environments, synthetic
from hm3rl.files import write_text

ROOT = Path("runs/agent_checks")

PROBLEMS: dict[str, list[str]] = {
    "synthetic": ["full", "plain"],
    "synthetic_16": list(synthetic.VARIANTS),
    **{name: list(protocol.settings) for name, protocol in environments.PROTOCOLS.items()},
}
"""Variants by problem."""

SEEDS = {"synthetic": 5, "synthetic_16": 5, "deep_sea_treasure": 3, "fruit_tree": 3, "concave": 3}


def run_one(problem: str, variant: str, seed: int) -> dict[str, float]:
    """Measures of one run."""
    if problem in synthetic.SIZES:
        return synthetic.run(synthetic.SIZES[problem], variant, seed)
    return environments.run(problem, variant, seed)


def main() -> None:
    """Run what is asked for, one after the other, seeds outermost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--variant", nargs="+", help="default: all of the problem")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 5 synthetic, 3 others")
    parser.add_argument("--root", type=Path, default=ROOT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    jobs = [
        (seed, problem, variant)
        for problem in args.problem
        for variant in PROBLEMS[problem]
        if not args.variant or variant in args.variant
        for seed in (args.seeds if args.seeds is not None else range(SEEDS[problem]))
    ]
    if not jobs:
        parser.error(f"no such variant; there are {PROBLEMS}")
    for seed, problem, variant in sorted(jobs, key=lambda job: job[0]):
        file = args.root / problem / variant / f"{seed}.json"
        if file.is_file():
            continue
        begun = time.perf_counter()
        found = run_one(problem, variant, seed)
        found["seconds"] = time.perf_counter() - begun
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(found, indent=1) + "\n")
        shown = {name: round(value, 4) for name, value in found.items() if "/" not in name}
        print(problem, variant, seed, shown, flush=True)


if __name__ == "__main__":
    main()

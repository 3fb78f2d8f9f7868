"""Run every method and seed of the first table; skip what is finished, continue what was killed.

python -m experiments.first_front.run --budget 300 --seeds 0 1 2 3 4 --workers 2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METHODS = ("hm3", "parameter_only", "architecture_only", "no_offline", "random")


def run_one(method: str, seed: int, budget: int, root: Path, extra: list[str]) -> str:
    """Run, continue or skip one search in a process of its own with one thread.

    Returns:
        A line that says what happened.
    """
    folder = root / f"{method}-{budget}-seed{seed}"
    label = f"{method} seed {seed}"
    if (folder / "summary.json").is_file():
        return f"{label}: finished before"
    if (folder / "config.yaml").is_file():
        words = [f"resume={folder}"]
    else:
        words = [
            "experiment=first_front",
            f"search={method}",
            f"output={folder}",
            f"seed={seed}",
            f"budget={budget}",
            *extra,
        ]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "hm3rl.cli", "search", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{label} failed with exit code {done.returncode}:\n{done.stderr}")
    return f"{label}: {time.perf_counter() - begun:.0f} s"


def main() -> None:
    """Run the table's searches, `workers` at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=Path("runs/first_front"))
    parser.add_argument("overrides", nargs="*", help="further Hydra overrides")
    args = parser.parse_args()
    jobs = [(method, seed) for seed in args.seeds for method in args.methods]
    with ThreadPoolExecutor(args.workers) as workers:
        futures = [
            workers.submit(run_one, method, seed, args.budget, args.root, args.overrides)
            for method, seed in jobs
        ]
        for future in futures:
            print(future.result(), flush=True)


if __name__ == "__main__":
    main()

"""Which candidates searches ask for, in order: a record to hold a change of the code against.

    python -m experiments.decisions record before.json     # before the change
    python -m experiments.decisions compare before.json    # after each step, on the same machine

A change of the house (rooms, names, contracts) must not change a decision. The record is of one
machine: another processor rounds differently and searches then take other turns, so it is not
committed and no test. All searches run on one thread with seed 0; `--workers` of them at a time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.common.methods import METHODS

TINY = ("experiment=tiny",)
COMPETITOR_BUDGET = 60
"""Ten generations of CMA-ES need so many."""

SEARCHES: dict[str, tuple[str, ...]] = {
    "demo": (*TINY, "budget=120"),
    "five experts": ("experiment=tiny5", "budget=60"),
    "any path, free length": (
        *(*TINY, f"budget={COMPETITOR_BUDGET}"),
        *("paths=any", "paths.min_length=6", "paths.max_length=10"),
    ),
    "hm3_paper": (*TINY, "agent=hm3_paper", f"budget={COMPETITOR_BUDGET}"),
    **{
        name: (*TINY, *overrides, f"budget={COMPETITOR_BUDGET}")
        for name, overrides in METHODS.items()
    },
}
"""Overrides by name."""


def asked(overrides: Sequence[str], folder: Path) -> list[str]:
    """Run one search and list what it asked for.

    Args:
        overrides: Of the configuration.
        folder: A run folder that does not exist yet.

    Returns:
        "phase key" of each evaluation in the order of asking; the experts' own are among them.

    Raises:
        RuntimeError: The search failed.
    """
    command = [sys.executable, "-m", "hm3rl.cli", "search", *overrides, f"output={folder}"]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=threads, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(overrides)}: {done.stderr.strip() or done.stdout.strip()}")
    with (folder / "evaluations.csv").open(newline="", encoding="utf-8") as file:
        return [f"{row['phase']} {row['key']}" for row in csv.DictReader(file)]


def run_all(names: Sequence[str], workers: int) -> Iterator[tuple[str, list[str]]]:
    """Run the searches of some names, some at a time; each is handed on when it is done."""
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(workers) as pool:
        folders = [Path(root) / str(number) for number in range(len(names))]
        found = pool.map(asked, (SEARCHES[name] for name in names), folders)
        yield from zip(names, found, strict=True)


def parting(was: Sequence[str], now: Sequence[str]) -> int | None:
    """Position of the first evaluation that differs; None if there is none."""
    if list(was) == list(now):
        return None
    pairs = enumerate(zip(was, now, strict=False))
    return next((i for i, (old, new) in pairs if old != new), min(len(was), len(now)))


def main(words: Sequence[str] | None = None) -> None:
    """Record or compare; exits with 1 if a decision changed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*SEARCHES], help="these searches alone")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time")
    args = parser.parse_args(words)
    recorded = json.loads(args.file.read_text()) if args.file.is_file() else {}
    names = args.only or list(SEARCHES)
    if args.verb == "record":
        # A record that was interrupted goes on.
        for name, found in run_all([name for name in names if name not in recorded], args.workers):
            recorded[name] = found
            args.file.write_text(json.dumps(recorded, indent=1) + "\n")
        return
    if missing := [name for name in names if name not in recorded]:
        parser.error(f"{args.file} has no record of {', '.join(missing)}")
    changed = False
    for name, now in run_all(names, args.workers):
        place = parting(recorded[name], now)
        changed |= place is not None
        counts = f"{len(recorded[name])} evaluations recorded, {len(now)} now"
        print(f"{name}: {counts}, " + ("the same" if place is None else f"parting at {place}"))
    if changed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

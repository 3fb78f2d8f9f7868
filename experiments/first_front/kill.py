"""Kill a search three times at random moments, resume it, compare with one left alone.

python -m experiments.first_front.kill --budget 60 --seed 0
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from hm3rl.runs import write_text

COUNT = "SELECT COUNT(*) FROM evaluations WHERE split = 'search'"
RESULTS = Path(__file__).parent / "results"


def command(words: list[str]) -> list[str]:
    """The command line of one search."""
    return [sys.executable, "-m", "hm3rl.cli", "search", *words]


def stored(folder: Path) -> int:
    """Evaluations on the search split that are committed to the store."""
    path = folder / "evaluations.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return int(connection.execute(COUNT).fetchone()[0])
        except sqlite3.OperationalError:  # the store's tables are not there yet
            return 0


def decisions(folder: Path) -> list[list[str]]:
    """What a run evaluated, in order, with its scores; times left out."""
    with (folder / "evaluations.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    left_out = {"seconds", "cached"}
    return [[value for key, value in row.items() if key not in left_out] for row in rows]


def main() -> None:
    """Print and write what was compared; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--root", type=Path, default=Path("runs/kill"))
    parser.add_argument("--write", action="store_true", help="write results/kill.json")
    args = parser.parse_args()
    words = [f"seed={args.seed}", f"budget={args.budget}", "threads=1"]
    whole, killed = args.root / "whole", args.root / "killed"
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(command([*words, f"output={whole}"]), check=True, capture_output=True)
    # A moment is "so many evaluations are on disk, and a random part of a second has passed", so
    # that it does not depend on how fast the machine is. The four sources are on disk first.
    rng = random.Random(args.seed)
    marks = sorted(rng.sample(range(6, args.budget + 3), args.kills))
    moments: list[dict[str, float]] = []
    for mark in marks:
        start = [*words, f"output={killed}"]
        if (killed / "config.yaml").exists():
            start = [f"resume={killed}"]
        process = subprocess.Popen(
            command(start), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while stored(killed) < mark:
            if process.poll() is not None:
                raise RuntimeError(f"the search ended before {mark} evaluations were stored")
            time.sleep(0.02)
        delay = rng.uniform(0.0, 0.5)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append({"at": mark, "delay": round(delay, 3), "stored": stored(killed)})
    subprocess.run(command([f"resume={killed}"]), check=True, capture_output=True)
    same_decisions = decisions(whole) == decisions(killed)
    same_front = (whole / "front.csv").read_text() == (killed / "front.csv").read_text()
    result = {
        "budget": args.budget,
        "seed": args.seed,
        "kills": moments,
        "stored_at_the_end": {"whole": stored(whole), "killed": stored(killed)},
        "same_evaluations": same_decisions,
        "same_front": same_front,
    }
    print(json.dumps(result, indent=2))
    if args.write:
        RESULTS.mkdir(exist_ok=True)
        write_text(RESULTS / "kill.json", json.dumps(result, indent=2) + "\n")
    sys.exit(0 if same_decisions and same_front else 1)


if __name__ == "__main__":
    main()

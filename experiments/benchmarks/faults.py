"""Kill searches and workers at random moments; compare with runs that were left alone.

python -m experiments.benchmarks.faults [--kills 20] [--of driver workers raylet sigterm]
    [--json FILE]

Drivers: small searches are killed with SIGKILL and resumed, again and again until one life reaches
its end. Workers: one search with two Ray workers, of which a random one is killed again and again.
Three things count:
evaluations that were committed when something died and are not there at the end (lost), those that
were computed once more (repeated), and whether decisions, scores and front are those of the run
left alone.

Raylet and SIGTERM: a search with two Ray workers of which Ray's own process is killed, or which is
told to end, `--kills` / 10 times. It must end by itself with exit code 1 and 130, leave no process
behind, and go on with `resume=` to the same decisions.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hm3rl.files import write_text

TASKS = ("translation", "math", "code")
SMALL = [
    *(f"tasks.{task}.{split}_items=24" for task in TASKS for split in ("search", "test")),
    "agent.pretrain_steps=30",
    "agent.replay_steps=2",
    "agent.acquisition.proposals=120",
    "agent.model_generated=8",
    "surrogate.fit_steps=8",
    "search.parameter.members=2",
    "threads=1",
    "evaluation.together=1",
]
"""A search whose evaluations take hundredths of a second and are committed one at a time."""

DRIVER_BUDGET = 24

STRIDE = 3
"""Most evaluations that a life of a search commits before it is killed."""
SOURCES = 7
"""Evaluations before the search begins: base and experts on search items, experts on test items."""

WORKER = "ray::ScoringWorker"
PATIENCE = 300.0
"""Seconds without progress after which the experiment has failed."""

KINDS = ("driver", "workers", "raylet", "sigterm")
RAY = ["evaluation/backend=ray", "evaluation.workers=2"]

EXIT_CODES = {"raylet": 1, "sigterm": 130}
"""How a search with Ray must end, by what happened to it."""

LINGER = 20.0
"""Seconds within which all processes of a search that has ended must have ended, too."""

Row = tuple[Any, ...]


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """Start one search in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hm3rl.cli", "search", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(words: list[str]) -> None:
    """Run one search to its end."""
    if start(words).wait() != 0:
        raise RuntimeError(f"hm3rl search {' '.join(words)} failed")


def committed(folder: Path) -> dict[Row, Row]:
    """What is on disk: under what, and what with the row's number and the time it was written."""
    path = folder / "evaluations.sqlite"
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            rows = connection.execute(
                "SELECT key, split, fidelity, id, created, status, scores FROM evaluations"
            ).fetchall()
        except sqlite3.OperationalError:  # the tables are not there yet
            return {}
    return {row[:3]: row[3:] for row in rows}


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of evaluations.csv, those of the last life of a run; a torn last line left out."""
    path = folder / "evaluations.csv"
    if not path.exists():
        return []
    with path.open() as stream:
        return [row for row in csv.DictReader(stream) if row.get("path") is not None]


def decisions(folder: Path) -> list[dict[str, str]]:
    """What a run evaluated, in order, with its scores; times and hits left out."""
    times = ("seconds", "cached")
    return [{k: v for k, v in row.items() if k not in times} for row in table(folder)]


def same(whole: Path, other: Path) -> dict[str, bool]:
    """Whether two runs decided the same and found the same front."""
    return {
        "same_evaluations": decisions(whole) == decisions(other),
        "same_front": (whole / "front.csv").read_text() == (other / "front.csv").read_text(),
    }


def wait_for_progress(process: subprocess.Popen[bytes], folder: Path, mark: int) -> bool:
    """Wait until so many evaluations are on disk; whether that came before the search's end."""
    seen, since = -1, time.monotonic()
    while True:
        count = len(committed(folder))
        if count >= mark:
            return True
        if process.poll() is not None:
            return False
        if count > seen:
            seen, since = count, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise RuntimeError(f"no progress in {folder} for {PATIENCE:.0f} s")
        time.sleep(0.005)


def kill_drivers(kills: int, root: Path, rng: random.Random) -> dict[str, Any]:
    """Kill and resume searches; see the module's text."""
    result: dict[str, Any] = {"kills": 0, "searches": [], "lost": 0, "repeated": 0}
    seed = 0
    while result["kills"] < kills:
        whole, killed = root / f"whole-{seed}", root / f"killed-{seed}"
        words = [*SMALL, f"budget={DRIVER_BUDGET}", f"seed={seed}"]
        finish([*words, f"output={whole}"])
        before: dict[Row, Row] = {}
        committed_at: list[int] = []
        while result["kills"] < kills:
            fresh = not (killed / "config.yaml").exists()
            started = time.time()
            process = start([*words, f"output={killed}"] if fresh else [f"resume={killed}"])
            # A moment is "so many more evaluations are on disk, and a random part of a second has
            # passed", so that it falls into work on every machine.
            alive = wait_for_progress(process, killed, len(before) + rng.randint(1, STRIDE))
            alive = alive and not ends_within(process, rng.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
            result["repeated"] += computed_again(killed, before, started)
            result["lost"] += lost(killed, before)
            before = committed(killed)
            if not alive:  # it had reached its end
                break
            result["kills"] += 1
            committed_at.append(len(before))
        started = time.time()
        finish([f"resume={killed}"])
        result["repeated"] += computed_again(killed, before, started)
        result["lost"] += lost(killed, before)
        result["searches"].append({"seed": seed, "killed_at": committed_at, **same(whole, killed)})
        print(f"search {seed}: {result['searches'][-1]}", flush=True)
        seed += 1
    for what in ("same_evaluations", "same_front"):
        result[what] = all(search[what] for search in result["searches"])
    return result


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ends by itself before so many seconds have passed."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def lost(folder: Path, before: Mapping[Row, Row]) -> int:
    """Evaluations that were on disk and are not, or have been written anew."""
    now = committed(folder)
    return sum(now.get(key) != row for key, row in before.items())


def computed_again(folder: Path, before: Mapping[Row, Row], started: float) -> int:
    """Evaluations of the search split that a life computed although they were on disk before.

    The table of an earlier life, left by one that was killed before it opened its own, is passed
    over.
    """
    path = folder / "evaluations.csv"
    if not path.exists() or path.stat().st_mtime < started:
        return 0
    known = {key for key, split, _ in before if split == "search"}
    return sum(row["cached"] == "0" and row["key"] in known for row in table(folder))


def processes_below(driver: int) -> dict[int, str]:
    """Command lines of the processes that descend from a process, by number."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])

    def descends(process: int) -> bool:
        while process > 1:
            process = parents.get(process, 0)
            if process == driver:
                return True
        return False

    return {process: title for process, title in titles.items() if descends(process)}


def workers_of(driver: int) -> list[int]:
    """Process numbers of the Ray workers that descend from a process."""
    return sorted(p for p, title in processes_below(driver).items() if title.startswith(WORKER))


def raylet_of(driver: int) -> int:
    """Process number of the raylet, which runs Ray on this machine, of a search."""
    below = processes_below(driver)
    return next(p for p, title in below.items() if Path(title.split("\0")[0]).name == "raylet")


def still_there(processes: Collection[int], seconds: float) -> int:
    """How many of some processes have not ended after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        there = sum(not _ended(process) for process in processes)
        if not there or time.monotonic() > deadline:
            return there
        time.sleep(0.1)


def _ended(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # ended, and nobody has asked how


def kill_workers(kills: int, root: Path, rng: random.Random) -> dict[str, Any]:
    """Kill random workers of one search; see the module's text."""
    whole, killed = root / "whole-workers", root / "killed-workers"
    words = [*SMALL, f"budget={3 * kills}", "seed=0"]
    finish([*words, f"output={whole}"])
    process = start([*words, f"output={killed}", *RAY])
    result: dict[str, Any] = {"kills": 0, "lost": 0}
    seen: dict[Row, Row] = {}
    while result["kills"] < kills:
        # New work must have been committed since the last death, so that deaths fall into scoring.
        if not wait_for_progress(process, killed, max(len(seen) + 1, SOURCES)):
            break
        time.sleep(rng.uniform(0.0, 0.3))
        workers = workers_of(process.pid)
        if not workers:
            continue
        seen = committed(killed)
        os.kill(rng.choice(workers), signal.SIGKILL)
        result["kills"] += 1
    if process.wait() != 0:
        raise RuntimeError("the search with Ray workers failed")
    result["lost"] = lost(killed, seen)
    computed = [row["key"] for row in table(killed) if row["cached"] == "0"]
    result["repeated"] = len(computed) - len(set(computed))
    result["failed"] = sum(row["failed"] == "1" for row in table(killed))
    return {**result, "evaluations": len(committed(killed)), **same(whole, killed)}


def end_ray(kind: str, kills: int, root: Path, rng: random.Random) -> dict[str, Any]:
    """Kill Ray under a search, or tell the search to end; see the module's text."""
    whole, ended = root / f"whole-{kind}", root / f"ended-{kind}"
    words = [*SMALL, f"budget={DRIVER_BUDGET}", "seed=0"]
    finish([*words, f"output={whole}"])
    result: dict[str, Any] = {"kills": 0, "lost": 0, "repeated": 0, "exit_codes": [], "left": 0}
    before: dict[Row, Row] = {}
    for _ in range(kills):
        fresh = not (ended / "config.yaml").exists()
        started = time.time()
        process = start([*words, f"output={ended}", *RAY] if fresh else [f"resume={ended}"])
        mark = max(len(before), SOURCES) + rng.randint(1, STRIDE)
        if not wait_for_progress(process, ended, mark):
            raise RuntimeError(f"a search with Ray ended before it could be killed ({kind})")
        below = processes_below(process.pid)
        if kind == "raylet":
            os.kill(raylet_of(process.pid), signal.SIGKILL)
        else:
            process.send_signal(signal.SIGTERM)
        result["exit_codes"].append(process.wait(timeout=PATIENCE))
        result["left"] += still_there(below, LINGER)
        result["kills"] += 1
        result["repeated"] += computed_again(ended, before, started)
        result["lost"] += lost(ended, before)
        before = committed(ended)
    started = time.time()
    finish([f"resume={ended}"])
    result["repeated"] += computed_again(ended, before, started)
    result["lost"] += lost(ended, before)
    result["ended_well"] = result["left"] == 0 and set(result["exit_codes"]) == {EXIT_CODES[kind]}
    return {**result, **same(whole, ended)}


def main() -> None:
    """Print the table; exit code 1 if anything was lost, repeated or different."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of drivers, and of workers")
    parser.add_argument("--of", nargs="+", choices=KINDS, default=KINDS, help="what is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--root", type=Path, default=Path("runs/faults"), help="for run folders")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    shutil.rmtree(args.root, ignore_errors=True)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    if set(args.of) != {"driver"} and find_spec("ray") is None:
        raise SystemExit("Ray is not installed: pip install 'hm3rl[ray]', or give --of driver")
    few = max(1, args.kills // 10)
    kill = {
        "driver": partial(kill_drivers, args.kills),
        "workers": partial(kill_workers, args.kills),
        "raylet": partial(end_ray, "raylet", few),
        "sigterm": partial(end_ray, "sigterm", few),
    }
    results = {name: kill[name](args.root, random.Random(args.seed)) for name in args.of}
    columns = ("kills", "lost", "repeated", "same_evaluations", "same_front", "ended_well")
    print(f"{'':8}", *(f"{column:>17}" for column in columns))
    for name, result in results.items():
        print(f"{name:8}", *(f"{result.get(column, '')!s:>17}" for column in columns))
    if args.json:
        write_text(args.json, json.dumps(results, indent=2) + "\n")
    good = all(
        result["lost"] == result["repeated"] == 0
        and result["kills"] == (few if name in EXIT_CODES else args.kills)
        and result.get("ended_well", True)
        and result["same_evaluations"]
        and result["same_front"]
        for name, result in results.items()
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

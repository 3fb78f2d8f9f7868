"""Tuning for all: a few settings of every method on three development pools, each search logged.

    python -m experiments.pools.tuning                    # goes on where it was stopped
    python -m experiments.pools.tuning --methods map      # one method
    python -m experiments.pools.tuning --list             # mean ranks of what is logged

Search-split hypervolume at 40 evaluations, with a seed that no table has. The first setting of each
method is the one it had before; `METHODS` has another where that one is clearly ahead.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from experiments.pools import judgements
from experiments.pools.methods import METHODS, overrides
from experiments.pools.pools import pools
from experiments.pools.results import append
from hm3rl import api
from hm3rl.events import NullLogger
from hm3rl.run.build import build_problem, build_searcher

FILE = Path(__file__).parent / "tuning.csv"
POOLS = ("D02", "D05", "D09")
SEED, BUDGET = 10, 40

SETTINGS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "layer_bo": {
        "4 groups": ("search.groups=4",),
        "2 groups": ("search.groups=2",),
        "every layer": ("search.groups=0",),
        "share 0.5": ("search.parameter_share=0.5",),
    },
    "annealing": {
        "as it was": ("search.hot=0.05", "search.widest=0.3", "search.groups=4"),
        "colder": ("search.hot=0.01",),
        "smaller steps": ("search.widest=0.15",),
        "2 groups": ("search.groups=2",),
    },
    "map": {
        "sample 0.4, batch 10": ("search.sample=0.4", "search.batch=10"),
        "sample 0.25": ("search.sample=0.25",),
        "sample 0.6": ("search.sample=0.6",),
        "batch 5": ("search.batch=5",),
    },
    "nsga2": {
        "population 20": ("search.population=20",),
        "population 10": ("search.population=10",),
        "population 6": ("search.population=6",),
    },
    "parameter_only": {
        "warm-up 0.5": ("search.parameter.warm_up=0.5",),
        "warm-up 0.25": ("search.parameter.warm_up=0.25",),
        "warm-up 0.1": ("search.parameter.warm_up=0.1",),
    },
    "none_members": {
        "share 0.2": ("search.parameter_share=null",),
        "share 0.4": ("search.parameter_share=0.4",),
        "share 0.6": ("search.parameter_share=0.6",),
    },
    "hm3": {
        "share 0.2": ("search.parameter_share=null",),
        "share 0.4": ("search.parameter_share=0.4",),
        "share 0.6": ("search.parameter_share=0.6",),
    },
    "none": {
        "batch 8": ("agent.batch=8",),
        "batch 4": ("agent.batch=4",),
        "batch 4, optimism 0": ("agent.batch=4", "agent.optimism=0"),
        "batch 4, half the first": ("agent.batch=4", "agent.first=1"),
    },
    "psl": {
        "batch 8, optimism -0.5": ("agent.batch=8", "agent.optimism=-0.5"),
        "batch 4, optimism -0.5": ("agent.batch=4", "agent.optimism=-0.5"),
        "batch 4, optimism -1": ("agent.batch=4", "agent.optimism=-1"),
        "and hill climbing": (
            "agent.batch=4",
            "agent.optimism=-1",
            "agent.proposals=[policy,variation,hill_climbing]",
        ),
    },
    "depth_wise": {
        "as it was": ("search.parameter_share=null", "search.starters=9"),
        "share 0.6": ("search.parameter_share=0.6",),
        "18 starters": ("search.starters=18",),
    },
}
"""Settings by method: what they add to its words; at most four."""


class Trial(NamedTuple):
    """Names a search.

    Attributes:
        method: Key of `SETTINGS`.
        setting: Key of the method's settings.
        pool: Name of the pool.
        seed: Seed.
        budget: Evaluations.
    """

    method: str
    setting: str
    pool: str
    seed: int
    budget: int


COLUMNS = (*Trial._fields, "hypervolume", "seconds", "commit")


def logged(file: Path = FILE) -> dict[Trial, float]:
    """Search-split hypervolumes of what has a row."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {
            Trial(
                row["method"], row["setting"], row["pool"], int(row["seed"]), int(row["budget"])
            ): float(row["hypervolume"])
            for row in csv.DictReader(stream)
        }


def attempt(trial: Trial, root: Path, extra: Sequence[str] = ()) -> float:
    """Search, and return the hypervolume on the search split.

    Args:
        trial: What to search.
        root: Folder of the stores of evaluations, one for each pool.
        extra: Further overrides.
    """
    own = SETTINGS[trial.method][trial.setting]
    keys = {word.partition("=")[0] for word in own}
    rest = [word for word in METHODS[trial.method] if word.partition("=")[0] not in keys]
    words = [*overrides(pools()[trial.pool]), *rest, *own, *extra]
    settings = api.settings(*words, f"budget={trial.budget}", f"seed={trial.seed}")
    store = root / trial.pool / "evaluations.sqlite"
    store.parent.mkdir(parents=True, exist_ok=True)
    problem = build_problem(settings, store, NullLogger())
    try:
        problem.prepare()
        return build_searcher(settings).search(problem, settings.budget).hypervolume()
    finally:
        problem.evaluator.close()
        problem.evaluator.store.close()


def mean_ranks(found: Mapping[Trial, float], method: str) -> dict[str, tuple[float, float]]:
    """Mean rank (1 is best, equals share theirs) and mean hypervolume by setting.

    They are over the pools on which all settings of the method are logged; empty: there is none.
    """
    names = list(SETTINGS[method])
    rows: dict[tuple[str, int, int], dict[str, float]] = {}
    for trial, value in found.items():
        if trial.method == method and trial.setting in names:
            rows.setdefault(trial[2:], {})[trial.setting] = value
    values = np.array(
        [[row[name] for name in names] for row in rows.values() if len(row) == len(names)]
    )
    if not len(values):
        return {}
    ranks = stats.rankdata(-values, axis=1).mean(axis=0)
    return {
        name: (float(rank), float(mean))
        for name, rank, mean in zip(names, ranks, values.mean(axis=0), strict=True)
    }


def main(words: Sequence[str] | None = None) -> None:
    """Run what has no row, and print mean ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=[*SETTINGS], default=[*SETTINGS])
    parser.add_argument("--pools", nargs="+", choices=[*pools("development")], default=[*POOLS])
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--root", type=Path, default=Path("runs/pools_tuning"))
    parser.add_argument("--log", type=Path, default=FILE)
    parser.add_argument("--extra", nargs="+", default=[], metavar="KEY=VALUE", help="for trials")
    args = parser.parse_args(words)
    if args.extra and args.log.resolve() == FILE.resolve():
        parser.error("--extra makes other results: name another file with --log")
    torch.set_num_threads(1)
    for method in args.methods:
        trials = [
            Trial(method, setting, pool, args.seed, args.budget)
            for pool in args.pools
            for setting in SETTINGS[method]
        ]
        for trial in trials if not args.list else ():
            if trial in logged(args.log):
                continue
            begun, commit = time.perf_counter(), judgements.commit()
            value = attempt(trial, args.root.resolve(), args.extra)
            seconds = time.perf_counter() - begun
            append(args.log, [_row(trial, value, seconds, commit)], ",".join(COLUMNS) + "\n")
        for setting, (rank, mean) in mean_ranks(logged(args.log), method).items():
            print(f"{method}: {setting}: mean rank {rank:.2f}, mean hypervolume {mean:.4f}")


def _row(trial: Trial, value: float, seconds: float, commit: str) -> str:
    cells = [*trial[:1], f'"{trial.setting}"', *trial[2:], f"{value:.6f}", f"{seconds:.0f}", commit]
    return ",".join(map(str, cells)) + "\n"


if __name__ == "__main__":
    main()

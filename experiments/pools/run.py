"""Runs methods on pools and appends a row for each as soon as it is finished.

    python -m experiments.pools.run --set development --methods hm3 layer_bo --budgets 40 100
    python -m experiments.pools.run --set A --methods hm3 layer_bo --budgets 40 100 --seeds 0

Rows that exist are skipped, killed searches go on. Several such processes may run side by side,
each with other pools. On a sealed set every look is kept (`judgements.py`).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch

from experiments.pools import judgements, multitask, results
from experiments.pools.methods import METHODS, overrides, runs, words_of
from experiments.pools.plugin import N_SEARCH, N_TEST
from experiments.pools.pools import DEVELOPED, SETS, Pool, pools
from experiments.pools.results import HELD_OUT, Key
from experiments.pools.search import search


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=SETS, default=DEVELOPED)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], required=True)
    parser.add_argument("--budgets", nargs="+", type=int, default=[40, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--pools", nargs="+", help="these pools of the development set alone")
    parser.add_argument("--again", default="", help="why what has results is run once more")
    parser.add_argument("--root", type=Path, default=Path("runs/pools"), help="run folders")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument(
        "--items", nargs=2, type=int, default=[N_SEARCH, N_TEST], help="of search and held-out"
    )
    parser.add_argument(
        "--extra", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides, for trials"
    )
    args = parser.parse_args(words)
    own = args.results.resolve() == results.RESULTS.resolve()
    if (args.extra or args.items != [N_SEARCH, N_TEST]) and own:
        parser.error("--extra and --items make other results: name another folder with --results")
    if args.set != DEVELOPED and (args.pools or args.extra):
        parser.error("a sealed set is judged as a whole and as it is: drop --pools and --extra")
    unknown = set(args.pools or ()) - set(pools(args.set))
    if unknown:
        parser.error(f"no such pool of {args.set}: {', '.join(sorted(unknown))}")
    return args


def chosen(args: argparse.Namespace) -> list[Pool]:
    """The pools that a command line names."""
    return [pool for name, pool in pools(args.set).items() if not args.pools or name in args.pools]


def run_pool(args: argparse.Namespace, pool: Pool, method: str, seed: int) -> None:
    """Run a method on a pool at all budgets that have no row yet, and append the rows."""
    commit = judgements.commit()
    words = [*overrides(pool, n_search=args.items[0], n_test=args.items[1])]
    words += words_of(method, pool) + args.extra
    for budget, parts in runs(method, pool, tuple(args.budgets)):
        key = Key(pool.name, method, seed, budget)
        have = results.known(args.results)
        rows = {part: have.get((key._replace(budget=part), HELD_OUT)) for part in parts}
        missing = [part for part, row in rows.items() if row is None or _stale(args, row[1])]
        if not missing:
            continue
        asked = "" if method == multitask.NAME else f"budget{budget}-"
        folder = args.root.resolve() / pool.name / method / f"{asked}seed{seed}"
        if args.again and any(row is not None for row in rows.values()):
            shutil.rmtree(folder, ignore_errors=True)
        begun = time.perf_counter()
        store = args.root.resolve() / pool.name / "evaluations.sqlite"
        if method == multitask.NAME:
            found = multitask.run(key, pool, words, missing, folder, store, commit)
        else:
            found = search(key, words, missing, folder, store, commit)
        results.add(found, pool.set, args.results)
        said = ", ".join(f"{one.key.budget}: {one.held_out:.4f}" for one in found)
        seconds = time.perf_counter() - begun
        print(f"{pool.name} {method} seed {seed}: {said} ({seconds:.0f} s)", flush=True)


def _stale(args: argparse.Namespace, commit: str) -> bool:
    """Whether a row is to be made again: it is asked for, and the row is of other code."""
    return bool(args.again) and (commit.endswith("+") or not judgements.same_code(commit))


def judged(args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Mean held-out hypervolume over seeds, by method, budget and pool."""
    have = results.known(args.results)
    return {
        method: {
            str(budget): {
                pool.name: round(
                    sum(
                        have[Key(pool.name, method, seed, budget), HELD_OUT][0]
                        for seed in args.seeds
                    )
                    / len(args.seeds),
                    4,
                )
                for pool in chosen(args)
            }
            for budget in args.budgets
        }
        for method in args.methods
    }


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> None:
    """Run all that is asked for; exits with 1 if something failed, after trying the rest."""
    args = parse(words)
    torch.set_num_threads(1)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(args)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(args: argparse.Namespace) -> None:
    sealed = args.set != DEVELOPED
    about = {"budgets": args.budgets, "seeds": args.seeds}
    if sealed:
        try:
            judgements.begin(args.set, args.methods, about, args.again)
        except judgements.Refused as refusal:
            sys.exit(str(refusal))
    failed = []
    for pool in chosen(args):
        for seed in args.seeds:
            for method in args.methods:
                try:
                    run_pool(args, pool, method, seed)
                except Exception:
                    failed.append(f"{pool.name} {method} seed {seed}")
                    print(f"FAILED {failed[-1]}\n{traceback.format_exc()}", flush=True)
    if failed:
        sys.exit(f"{len(failed)} failed: {'; '.join(failed)}")
    if sealed:
        judgements.note(
            judgements.JUDGED, args.set, args.methods, {**about, "result": judged(args)}
        )


if __name__ == "__main__":
    main()

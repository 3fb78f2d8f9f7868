"""Run studies: the searches that are missing, then their tables and figures.

    python -m experiments.run fronts                # one study, at full size
    python -m experiments.run all --shrink          # the tiny zoo's in minutes, to see they run
    python -m experiments.run fronts --methods hm3 random --budgets 1000 --seeds 0 1 2
    python -m experiments.run hm3_table6 --no-run   # tables and figures of what is finished
    python -m experiments.run fronts --seeds 5 --add    # one seed more than the committed ones

A thin wrapper over `hm3rl search -m`: each row of a study is a sweep over seeds (`--show` prints
the commands). Finished searches are skipped and killed ones continued, so the same command goes on
where it was stopped. Full tables go to
experiments/STUDY/results, shrunk ones to ROOT/results/STUDY. Tables are of the run folders alone;
with `--add` they are of the committed searches and of those in run folders that these lack.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

from experiments.common.committed import known
from experiments.common.plan import Context, Study
from experiments.common.runner import commands, run

HERE = Path(__file__).parent
NAMES = tuple(sorted(file.parent.name for file in HERE.glob("*/study.py")))


def load(name: str) -> Study:
    """The study of a folder."""
    study: Study = import_module(f"experiments.{name}.study").STUDY
    return study


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=[*NAMES, "all"])
    parser.add_argument(
        "--shrink", action="store_true", help="few items, tiny budgets, a seed or two"
    )
    parser.add_argument("--methods", nargs="+", default=[], help="only these rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="instead of the study's")
    parser.add_argument("--budgets", type=int, nargs="+", default=[], help="likewise")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time")
    parser.add_argument("--root", type=Path, help="folder of the runs [runs, or runs/shrunk]")
    parser.add_argument("--no-run", action="store_true", help="tables of what is finished")
    parser.add_argument(
        "--add", action="store_true", help="keep the committed searches, add those they lack"
    )
    parser.add_argument("--show", action="store_true", help="print the commands, run nothing")
    return parser.parse_args(words)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> None:
    """Run and write what is asked for; exits with 1 if a search failed or nothing is finished.

    Ended by Ctrl-C or SIGTERM, it ends its searches first, which can be continued.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    args = parse(words)
    root = args.root or Path("runs/shrunk" if args.shrink else "runs")
    every = args.study == "all"
    studies = [s for s in map(load, NAMES) if (s.in_all if every else s.name == args.study)]
    if args.add and (args.shrink or every or not studies[0].adds):
        names = ", ".join(study.name for study in map(load, NAMES) if study.adds)
        sys.exit(f"--add is for full tables of one of these studies: {names}")
    lacking = {} if args.show or args.no_run else {study.name: study.needs() for study in studies}
    for name, missing in lacking.items():
        if missing and not every:
            sys.exit(f"{name}: {missing}")
        if missing:
            print(f"{name} is left out: {missing}")
    studies = [study for study in studies if not lacking.get(study.name)]
    if args.shrink:
        studies = [study.shrunk() for study in studies]
    unknown = set(args.methods) - {name for study in studies for name in study.variants}
    if unknown:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; see experiments/*/study.py")
    jobs = [job for s in studies for job in s.limited(args.methods, args.seeds, args.budgets)]
    todo = commands(jobs, root, together=args.shrink or args.show)
    if args.show:
        for command in todo:
            print(shlex.join(["hm3rl", "search", *command.words]))
        return
    failures = [] if args.no_run else run(todo, args.workers)
    for study in studies:
        results = root / "results" / study.name if args.shrink else HERE / study.name / "results"
        owner = HERE / study.owner / "results"
        committed = tuple(dict.fromkeys([results, owner])) if args.add else ()
        context = Context(root, results, args.shrink, committed)
        if not known(study, context):
            failures.append(f"{study.name}: no finished search in {root / study.owner}")
            continue
        results.mkdir(parents=True, exist_ok=True)
        print(f"\n{study.name}\n")
        study.write(study, context)
    if failures:
        sys.exit(f"{len(failures)} failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()

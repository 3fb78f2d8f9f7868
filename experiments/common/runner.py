"""Runs jobs as sweeps of `hm3rl search -m`, several processes at a time; what is finished is left.

Budgets and seeds of one variant can be one sweep, in one process. A search that was killed is
continued by `hm3rl search resume=`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from experiments.common.plan import Job
from hm3rl import cli

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
LOADED = (
    "hm3rl.api",
    "hm3rl.run.job",
    "hm3rl.reporting.terminal",
    "transformers.models.llama.modeling_llama",
)
"""What a search loads sooner or later."""


class Command(NamedTuple):
    """A process to run.

    Attributes:
        label: What it is, for a reader.
        words: Arguments of `hm3rl search`.
        folders: Run folders that are finished afterwards.
    """

    label: str
    words: tuple[str, ...]
    folders: tuple[Path, ...]


def finished(folder: Path) -> bool:
    """Whether a search ended as it should."""
    return (folder / "summary.json").is_file()


def commands(jobs: Iterable[Job], root: Path, together: bool = True) -> list[Command]:
    """What has to be run.

    Args:
        jobs: Searches that must be finished in the end, repeats possible.
        root: Folder of all runs.
        together: Whether the searches of a variant share a process; otherwise each has its own,
            which spreads a few long searches better over the cores.

    Returns:
        Commands, killed searches first; none for what is finished.
    """
    begun: list[Command] = []
    fresh: dict[tuple[str, str], list[Job]] = {}
    for job in dict.fromkeys(jobs):
        folder = job.folder(root)
        if finished(folder):
            continue
        if (folder / "config.yaml").is_file():
            label = f"{folder.relative_to(root)}, continued"
            begun.append(Command(label, (f"resume={folder}",), (folder,)))
        else:
            fresh.setdefault((job.owner, job.variant), []).append(job)
    sweeps = [group for some in fresh.values() for group in _grids(some, together)]
    return begun + [_sweep(group, root) for group in sweeps]


def _grids(jobs: Sequence[Job], together: bool) -> list[list[Job]]:
    """Divide the jobs of a variant into grids of budgets times seeds, or into single ones."""
    if not together:
        return [[job] for job in jobs]
    seeds: dict[int, list[int]] = {}
    for job in jobs:
        seeds.setdefault(job.budget, []).append(job.seed)
    grids: dict[tuple[int, ...], list[Job]] = {}
    for job in jobs:
        grids.setdefault(tuple(seeds[job.budget]), []).append(job)
    return list(grids.values())


def _sweep(jobs: Sequence[Job], root: Path) -> Command:
    """One sweep over the budgets and seeds of jobs that differ in nothing else."""
    first = jobs[0]
    budgets = ",".join(str(budget) for budget in dict.fromkeys(job.budget for job in jobs))
    seeds = ",".join(str(seed) for seed in dict.fromkeys(job.seed for job in jobs))
    folder = first.sweep(root)
    words = (
        "-m",
        f"name={first.owner}",
        *first.words,
        f"budget={budgets}",
        f"seed={seeds}",
        f"hydra.sweep.dir={folder}",
        "hydra.sweep.subdir=budget${budget}-seed${seed}",
    )
    label = f"{folder.relative_to(root)}, budget {budgets}, seed {seeds}"
    return Command(label, words, tuple(job.folder(root) for job in jobs))


def run(todo: Sequence[Command], workers: int) -> list[str]:
    """Run commands, `workers` at a time, each in a process of its own with one thread.

    The processes are forked from one that has loaded the libraries: that takes as long as a shrunk
    search does.

    Args:
        todo: The commands.
        workers: Processes at a time.

    Returns:
        What failed, one text for each command; the others have finished.
    """
    if not todo:
        return []
    context = _forking()
    alive: set[BaseProcess] = set()

    def execute(command: Command) -> str:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="hm3rl-") as folder:
            said = Path(folder) / "stderr"
            environment = {**os.environ, **ONE_THREAD}
            process = context.Process(target=_search, args=(command.words, environment, said))
            process.start()
            alive.add(process)
            process.join()
            alive.discard(process)
            errors = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
        missing = [str(folder) for folder in command.folders if not finished(folder)]
        if process.exitcode or missing:
            why = f"exit code {process.exitcode}; not finished: {', '.join(missing) or 'none'}"
            return f"{command.label}: {why}\n{errors.strip()[-3000:]}"
        print(f"{command.label}: {time.perf_counter() - begun:.0f} s", flush=True)
        return ""

    failures = []
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(execute, command) for command in todo]
        try:
            for future in as_completed(futures):
                if future.result():
                    failures.append(future.result())
                    print(f"FAILED {failures[-1]}", flush=True)
        except BaseException:
            # Interrupted: what has not begun never will, what runs saves itself and ends.
            for future in futures:
                future.cancel()
            for process in list(alive):
                process.terminate()
            raise
    return failures


def _forking() -> ForkServerContext:
    """The context whose processes begin with the libraries loaded."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", *LOADED])
    # The libraries read these when they are loaded, which is in the server.
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _search(words: Sequence[str], environment: Mapping[str, str], errors: Path) -> None:
    """`hm3rl search` with these words; ends the process with its exit code."""
    os.environ.clear()
    os.environ.update(environment)
    for target, number in ((os.devnull, 1), (errors, 2)):
        opened = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    cli.main(["search", *words])

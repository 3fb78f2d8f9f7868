"""Two Ray workers against one process: throughput, and what a candidate costs besides its scoring.

python -m experiments.benchmarks.ray_pool [--candidates 48] [--rounds 3] [--json FILE]

The candidates are stitched from the zoo's experts and a few merges, on 200 items a task. Both sides
score the same jobs in turn, one after the other in every round; ratios are medians over rounds. The
process gets one thread and, for comparison, all the cores the workers have together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hm3rl import api
from hm3rl.config.compose import to_dict
from hm3rl.evaluation.backends.base import Backend, Job, JobResult
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.backends.ray_pool import RayBackend
from hm3rl.files import write_text
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths import Candidate, LayerPath
from hm3rl.run.build import load_scoring_backend

WORKERS = 2
MERGES = 4
TINY_ITEMS = 2
"""Items per task of the jobs that are almost nothing but overhead."""


def candidates(count: int, experts: Sequence[str], depth: int, seed: int = 0) -> list[Candidate]:
    """Random same-depth paths through the experts and some merges of them."""
    rng = np.random.default_rng(seed)
    recipes = [
        MergeRecipe(
            "task_arithmetic",
            tuple(zip(experts, map(float, rng.dirichlet(np.ones(len(experts)))), strict=True)),
            scale=1.2,
        )
        for _ in range(MERGES)
    ]
    names = [*experts, *(recipe.name for recipe in recipes)]
    paths = []
    for _ in range(count):
        chosen = rng.choice(names, depth + 1)
        layers = " + ".join(f"{name}[{layer}]" for layer, name in enumerate(chosen[1:]))
        paths.append(Candidate.of(LayerPath.parse(f"{chosen[0]} | {layers}"), recipes))
    return paths


def jobs_of(chosen: Sequence[Candidate], backend: InProcessBackend, items: int = 0) -> list[Job]:
    """Jobs on all search items of each task, or on the first few."""
    numbers = {
        name: tuple(range(items or len(task.items("search"))))
        for name, task in backend.tasks.items()
    }
    return [Job(str(n), candidate, "search", numbers) for n, candidate in enumerate(chosen)]


def timed(backend: Backend, jobs: Sequence[Job]) -> tuple[float, list[JobResult]]:
    """Seconds for all jobs, and their outcomes."""
    begin = time.perf_counter()
    outcomes = list(backend.score(jobs))
    return time.perf_counter() - begin, outcomes


def agree(one: Sequence[JobResult], other: Sequence[JobResult]) -> bool:
    """Whether every score of every item is the same."""
    return all(
        a.error is None and b.error is None and np.array_equal(a.scores[task], b.scores[task])
        for a, b in zip(one, other, strict=True)
        for task in a.scores
    )


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Run everything; times in seconds unless they say otherwise."""
    settings = api.settings("threads=1")
    local = load_scoring_backend(to_dict(settings))
    cores = len(os.sched_getaffinity(0))
    remote = RayBackend(
        local,
        partial(load_scoring_backend, to_dict(settings)),
        WORKERS,
        threads=max(cores // WORKERS, 1),
    )
    chosen = candidates(count, local.pool.expert_names, local.pool.num_layers)
    jobs, tiny = jobs_of(chosen, local), jobs_of(chosen, local, TINY_ITEMS)

    def with_threads(threads: int) -> Callable[[], tuple[float, list[JobResult]]]:
        def run() -> tuple[float, list[JobResult]]:
            torch.set_num_threads(threads)
            try:
                return timed(local, jobs)
            finally:
                torch.set_num_threads(1)

        return run

    begin = time.perf_counter()
    timed(remote, tiny[:WORKERS])
    start = time.perf_counter() - begin
    for backend in (local, remote):  # merges are made, items encoded, on both sides
        timed(backend, tiny)
        timed(backend, jobs[: 4 * WORKERS])
    sides = {
        "one_thread": with_threads(1),
        "all_cores": with_threads(cores),
        "ray": lambda: timed(remote, jobs),
        "tiny_one_thread": lambda: timed(local, tiny),
        "tiny_ray": lambda: timed(remote, tiny),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    idle: list[float] = []
    same = True
    for _ in range(rounds):
        outcomes: dict[str, list[JobResult]] = {}
        for name, run in sides.items():
            spent, outcomes[name] = run()
            seconds[name].append(spent)
            print(f"  {name}: {spent:.2f} s", flush=True)
        busy = sum(sum(outcome.seconds.values()) for outcome in outcomes["ray"])
        idle.append(WORKERS * seconds["ray"][-1] - busy)
        same = same and agree(outcomes["one_thread"], outcomes["ray"])
    remote.close()
    middle = {name: statistics.median(values) for name, values in seconds.items()}

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[name], seconds["ray"], strict=True))

    tiny_extra = [
        ray - here / WORKERS
        for ray, here in zip(seconds["tiny_ray"], seconds["tiny_one_thread"], strict=True)
    ]
    return {
        "workers": WORKERS,
        "cores": cores,
        "candidates": count,
        "rounds": rounds,
        "same_scores": same,
        "candidates_per_second": {
            name: count / middle[name] for name in ("one_thread", "all_cores", "ray")
        },
        "speed_up_over_one_thread": ratio("one_thread"),
        "speed_up_over_all_cores": ratio("all_cores"),
        "idle_ms_per_candidate": 1000 * statistics.median(idle) / count,
        "overhead_ms_per_candidate": 1000 * statistics.median(tiny_extra) / count,
        "start_seconds": start,
        "seconds": seconds,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    result = measure(args.candidates, args.rounds)
    for name, rate in result["candidates_per_second"].items():
        print(f"{name:12} {rate:6.2f} candidates a second")
    print(f"{WORKERS} workers over one thread: {result['speed_up_over_one_thread']:.2f}x")
    print(f"{WORKERS} workers over all cores:  {result['speed_up_over_all_cores']:.2f}x")
    print(f"worker time not spent scoring: {result['idle_ms_per_candidate']:.1f} ms a candidate")
    print(
        f"overhead of tiny candidates:   {result['overhead_ms_per_candidate']:.1f} ms a candidate"
    )
    print(f"start of Ray and workers: {result['start_seconds']:.1f} s")
    print(f"same scores: {result['same_scores']}")
    if args.json:
        write_text(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

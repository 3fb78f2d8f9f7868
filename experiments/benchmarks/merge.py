"""Seconds and memory to make one merged candidate runnable: ours against mergekit.

python -m experiments.benchmarks.merge [--shapes smollm2-135m ...] [--threads 1] [--json FILE]

Ours: from a loaded pool to a runnable model in memory. *First*: nothing is known of the task
vectors yet. *Later*: statistics of an earlier candidate are kept; weights, density and seed are
others. mergekit: `run_merge` to disk, then `from_pretrained`; it keeps nothing between candidates,
so its one measurement stands in both rows. Not counted on either side: imports, and on ours the
loading of the pool, which a search does once.

Every measurement runs in a process of its own with the same settings, one after the other, and is
kept in the working folder, so that a run that was cut off goes on. CPU seconds stand beside those
of the clock, because other work on the machine stretches the latter. The floor of a candidate is
the time to read base and experts and to write the result at the measured copy bandwidth; for DARE
also the time to draw its random numbers at the measured rate, on all threads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from experiments.benchmarks.memory import PeakMemory
from experiments.benchmarks.shapes import EXPERTS, SHAPES, make_sources
from hm3rl.merging.merge import merged_model
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.merging.threads import in_threads
from hm3rl.merging.traits import traits_of
from hm3rl.models.loading import quiet_transformers
from hm3rl.models.pool import ModelPool

OPERATORS = ("linear", "ties", "dare_ties")
WEIGHTS = ((0.5, 0.3, 0.2), (0.4, 0.3, 0.3), (0.2, 0.3, 0.5), (0.2, 0.35, 0.45), (0.3, 0.5, 0.2))
DENSITIES = (0.5, 0.35, 0.62, 0.44, 0.71)
FIRST_RUNS = 3
COPIED = 1 << 28


def recipe(operator: str, number: int) -> MergeRecipe:
    """Return one of five recipes that differ in weights, density and seed."""
    weights = dict(zip(EXPERTS, WEIGHTS[number], strict=True))
    return MergeRecipe.of(operator, weights, density=DENSITIES[number], seed=number)


class Spent(NamedTuple):
    """What an action took.

    Attributes:
        seconds: By the clock.
        cpu: Of the processor, all threads together.
    """

    seconds: float
    cpu: float


def timed(action: Callable[[], Any]) -> Spent:
    """Time an action; its result is freed afterwards."""
    begun, worked = time.perf_counter(), time.process_time()
    kept = action()
    spent = Spent(time.perf_counter() - begun, time.process_time() - worked)
    del kept
    return spent


def middle(runs: Sequence[Spent]) -> Spent:
    """Return the medians of several runs."""
    return Spent(*(statistics.median(column) for column in zip(*runs, strict=True)))


def measure_ours(folders: dict[str, Path], operator: str) -> dict[str, Any]:
    """Time first and later candidates of one operator.

    Returns:
        Seconds and peak bytes (the resident pool included) of each kind, and the floor.
    """
    pool = ModelPool.load(
        folders["base"], {e: folders[e] for e in EXPERTS}, dtype=torch.bfloat16, device="cpu"
    )
    with PeakMemory() as memory:
        first = [
            timed(lambda: merged_model(TaskVectors(pool), recipe(operator, 0)))
            for _ in range(FIRST_RUNS)
        ]
    found: dict[str, Any] = {"first": middle(first), "first_peak": memory.peak}
    task_vectors = TaskVectors(pool)
    merged_model(task_vectors, recipe(operator, 0))
    with PeakMemory() as memory:
        later = [
            timed(partial(merged_model, task_vectors, recipe(operator, number)))
            for number in range(1, len(WEIGHTS))
        ]
    entries = sum(tensor.numel() for tensor in pool.tensors("base").values())
    return {
        **found,
        "later": middle(later),
        "later_peak": memory.peak,
        "kept_bytes": task_vectors.cached_bytes,
        "entries": entries,
        "floor": floor_seconds(entries, operator),
    }


def floor_seconds(entries: int, operator: str) -> float:
    """Return the seconds that reading, writing and drawing alone would take.

    Args:
        entries: Weights of the model, stored in two bytes each.
        operator: The name of an operator.
    """
    source, target = torch.ones(COPIED, dtype=torch.uint8), torch.zeros(COPIED, dtype=torch.uint8)
    per_byte = min(timed(lambda: target.copy_(source)).seconds for _ in range(5)) / (2 * COPIED)
    seconds = 2 * entries * (len(EXPERTS) + 2) * per_byte
    if traits_of(operator).random:
        parts = [torch.empty(1 << 16) for _ in range(256)]
        draw = min(
            timed(lambda: in_threads(lambda t: t.uniform_(), parts, lambda t: t.numel())).seconds
            for _ in range(3)
        )
        seconds += draw / (256 << 16) * entries * len(EXPERTS)
    return seconds


def measure_mergekit(folders: dict[str, Path], operator: str, to: Path) -> dict[str, Any]:
    """Time mergekit from sources on disk to a runnable model.

    Returns:
        Seconds and peak bytes.
    """
    from mergekit import config, merge, options

    chosen = recipe(operator, 0)
    models = [
        {"model": str(folders[e]), "parameters": {"weight": w, "density": chosen.density}}
        for e, w in chosen.weights
    ]
    plain = {"merge_method": operator, "models": models, "dtype": "bfloat16"}
    if operator != "linear":
        plain["base_model"] = str(folders["base"])
    configuration = config.MergeConfiguration.model_validate(plain)

    def candidate() -> Any:
        merge.run_merge(configuration, str(to), options.MergeOptions(copy_tokenizer=False))
        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(str(to), dtype=torch.bfloat16)

    with PeakMemory() as memory:
        spent = timed(candidate)
    shutil.rmtree(to)
    return {"spent": spent, "peak": memory.peak}


def measure(tool: str, shape: str, operator: str, folder: Path, threads: int) -> dict[str, Any]:
    """Take one measurement in a process of its own, unless the folder has it."""
    kept = folder / f"{shape}-{operator}-{tool}-{threads}.json"
    if not kept.is_file():
        part = kept.with_suffix(".part")
        command = [sys.executable, "-m", "experiments.benchmarks.merge", "--folder", str(folder)]
        command += ["--shapes", shape, "--operators", operator, "--only", tool]
        command += ["--threads", str(threads)]
        done = subprocess.run([*command, "--json", str(part)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{kept.stem} failed:\n{done.stderr[-2000:]}")
        part.rename(kept)
    return json.loads(kept.read_text(encoding="utf-8"))


def rows_of(shape: str, operator: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """Measure both tools; one row for the first candidate and one for later ones."""
    ours = measure("ours", shape, operator, folder, threads)
    theirs = measure("mergekit", shape, operator, folder, threads)
    seconds, cpu = theirs["spent"]
    return [
        {
            "shape": shape,
            "operator": operator,
            "candidate": candidate,
            "threads": threads,
            "seconds_ours": ours[candidate][0],
            "seconds_mergekit": seconds,
            "ratio": seconds / ours[candidate][0],
            "cpu_seconds_ours": ours[candidate][1],
            "cpu_seconds_mergekit": cpu,
            "cpu_ratio": cpu / ours[candidate][1],
            "floor_seconds": ours["floor"],
            "peak_bytes_ours": ours[f"{candidate}_peak"],
            "peak_bytes_mergekit": theirs["peak"],
        }
        for candidate in ("first", "later")
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Write the rows as a Markdown table."""
    lines = [
        "| shape | operator | candidate | ours, s | mergekit, s | ratio | CPU ratio | floor, s "
        "| ours / floor | peak ours, GB | peak mergekit, GB |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['shape']} | {row['operator']} | {row['candidate']} "
            f"| {row['seconds_ours']:.3f} | {row['seconds_mergekit']:.1f} | {row['ratio']:.0f} "
            f"| {row['cpu_ratio']:.0f} "
            f"| {row['floor_seconds']:.3f} | {row['seconds_ours'] / row['floor_seconds']:.1f} "
            f"| {row['peak_bytes_ours'] / 1e9:.2f} | {row['peak_bytes_mergekit'] / 1e9:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["smollm2-135m"])
    parser.add_argument("--operators", nargs="+", choices=OPERATORS, default=list(OPERATORS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/merge"))
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--only", choices=["ours", "mergekit"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.folder.mkdir(parents=True, exist_ok=True)
    pools = {shape: make_sources(shape, given.folder / shape) for shape in given.shapes}
    if given.only:
        shape, operator = given.shapes[0], given.operators[0]
        found = (
            measure_ours(pools[shape], operator)
            if given.only == "ours"
            else measure_mergekit(pools[shape], operator, given.folder / f"{shape}-{operator}-out")
        )
        given.json.write_text(json.dumps(found), encoding="utf-8")
        return
    rows = [
        row
        for shape in given.shapes
        for operator in given.operators
        for row in rows_of(shape, operator, given.folder, given.threads)
    ]
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measures the shipped zoo: the table of its README, as CSV.

python -m experiments.zoo.measure [--seeds 3] [--to experiments/zoo/results]

Sources are scored on search and test items; merges and paths on search items only.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.zoo.levels import pick_members, score_merges, search_paths
from experiments.zoo.settings import NAMES
from experiments.zoo.table import Row, insert, levels_table, sources_table
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.models.pool import ModelPool
from hm3rl.objectives.indicators import hypervolume
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.sandbox import SandboxPool
from hm3rl.tasks.translation import TranslationTask

EXPERTS = NAMES[1:]
BUDGET = 260
FIRST_MERGES = 60
PATH_MERGES = 4
CHECKPOINTS = (30, 60, 100, 150, 200, 260)


def measure_sources(evaluator: Evaluator, depth: int) -> list[Row]:
    """Score base and experts on both splits, one row per model, split and task."""
    rows: list[Row] = []
    for split in ("search", "test"):
        candidates = [Candidate.whole(name, depth) for name in NAMES]
        evaluations = evaluator.evaluate(candidates, split=split, secondary=True)
        for name, result in zip(NAMES, evaluations, strict=True):
            if result.status != "ok":
                raise RuntimeError(f"{name} could not be scored: {result.error}")
            for index, task in enumerate(result.tasks):
                secondary = (result.secondary or {}).get(task, {})
                rows.append(
                    {
                        "model": name,
                        "split": split,
                        "task": task,
                        "items": len(result.per_item[task]),
                        "score": result.scores[index],
                        "standard_error": result.standard_errors[index],
                        "nll": result.nll[index],
                        "chrf": secondary.get("chrf", ""),
                    }
                )
    return rows


def measure_levels(
    evaluator: Evaluator, members: MemberSet, sources: np.ndarray, seed: int
) -> list[Row]:
    """Compare merges only with merges followed by paths, at equal numbers of evaluations.

    Args:
        evaluator: Scores on search items.
        members: A fresh member set of the zoo.
        sources: The experts' own search scores, shape (3, 3).
        seed: Seed of both searches.

    Returns:
        One row per method and checkpoint: hypervolume of f / z*, reference 0.
    """
    z_star = np.diag(sources)

    def score(candidates: Sequence[Candidate]) -> np.ndarray:
        results = evaluator.evaluate(candidates, split="search")
        return np.array([result.vector for result in results]) / z_star

    own = sources / z_star
    recipes, merged = score_merges(members, score, BUDGET, np.random.default_rng(seed))
    chosen = pick_members(merged[:FIRST_MERGES], own, PATH_MERGES)
    known: dict[str, np.ndarray] = dict(zip(EXPERTS, own, strict=True))
    known |= {recipes[i].name: merged[i] for i in chosen}
    rng = np.random.default_rng(1000 + seed)
    used = [recipes[i] for i in chosen]
    paths = search_paths(members, score, known, used, BUDGET - FIRST_MERGES, rng)
    curves: Mapping[str, np.ndarray] = {
        "merges": merged,
        "merges_then_paths": np.concatenate([merged[:FIRST_MERGES], paths]),
    }
    rows: list[Row] = [_row("experts", seed, 0, own)]
    for method, points in curves.items():
        for count in CHECKPOINTS:
            rows.append(_row(method, seed, count, np.concatenate([own, points[:count]])))
    return rows


def _row(method: str, seed: int, evaluations: int, points: np.ndarray) -> Row:
    """Return one line of the comparison."""
    best = points[points.mean(axis=1).argmax()]
    return {
        "method": method,
        "seed": seed,
        "evaluations": evaluations,
        "split": "search",
        "hypervolume": hypervolume(points),
        "best_mean": float(best.mean()),
        "best_worst_task": float(points.min(axis=1).max()),
    }


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that share their columns, floats to five digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description="Measure the tiny zoo.")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the search comparison")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--store", type=Path, default=Path("runs/zoo/measure.sqlite"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.store.parent.mkdir(parents=True, exist_ok=True)
    pool = ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in EXPERTS})
    members = MemberSet(pool)
    tasks = (TranslationTask(), MathTask(), CodeTask(SandboxPool()))
    evaluator = Evaluator(members, tasks, EvaluationStore(arguments.store))
    rows = measure_sources(evaluator, pool.num_layers)
    write_csv(arguments.to / "sources.csv", rows)
    table = {(r["model"], r["split"], r["task"]): float(r["score"]) for r in rows}
    for split in ("search", "test"):
        scores = np.array([[table[m, split, t] for t in EXPERTS] for m in NAMES])
        points = scores[1:] / np.diag(scores[1:])
        print(split, dict(zip(NAMES, scores.round(3).tolist(), strict=True)))
        print(split, "hypervolume of the experts' own points", round(hypervolume(points), 3))
    sources = np.array([[table[m, "search", t] for t in EXPERTS] for m in EXPERTS])
    comparison: list[Row] = []
    for seed in range(arguments.seeds):
        comparison += measure_levels(evaluator, members, sources, seed)
        write_csv(arguments.to / "levels.csv", comparison)
    if comparison:
        tables = f"{sources_table(rows)}\n\n{levels_table(comparison)}"
        print(tables)
        insert(Path(__file__).parent / "README.md", tables)


if __name__ == "__main__":
    main()

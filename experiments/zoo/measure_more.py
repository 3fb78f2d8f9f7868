"""Measures the two later experts beside the others: sources on five tasks, and merges of all five.

    python -m experiments.zoo.measure_more [--merges 60]

Writes results/five_sources.csv (score, standard error, both splits) and results/five_merges.csv
(search split only). Merges are the random draws of `experiments.zoo.levels`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.zoo.levels import score_merges
from experiments.zoo.settings import MORE, NAMES, all_tasks
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.files import write_csv
from hm3rl.models.pool import ModelPool
from hm3rl.objectives.indicators import hypervolume
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.sandbox import SandboxPool

EXPERTS = (*NAMES[1:], *MORE)
SPLITS: tuple[Split, ...] = ("search", "test")


def source_rows(evaluator: Evaluator, depth: int) -> list[list[object]]:
    """Score base and experts on both splits: model, split, task, items, score, standard error."""
    rows: list[list[object]] = []
    names = (NAMES[0], *EXPERTS)
    for split in SPLITS:
        candidates = [Candidate.whole(name, depth) for name in names]
        for name, found in zip(names, evaluator.evaluate(candidates, split), strict=True):
            for task, score, error in zip(
                found.tasks, found.scores, found.standard_errors, strict=True
            ):
                rows.append(
                    [name, split, task, len(found.per_item[task]), f"{score:.4f}", f"{error:.4f}"]
                )
    return rows


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description="Measure the tiny zoo with five experts.")
    parser.add_argument("--merges", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--store", type=Path, default=Path("runs/zoo/measure_more.sqlite"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.store.parent.mkdir(parents=True, exist_ok=True)
    arguments.to.mkdir(parents=True, exist_ok=True)
    pool = ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in EXPERTS})
    members = MemberSet(pool)
    tasks = tuple({**all_tasks(), "code": CodeTask(SandboxPool())}.values())
    evaluator = Evaluator(members, tasks, EvaluationStore(arguments.store))
    rows = source_rows(evaluator, pool.num_layers)
    columns = ["model", "split", "task", "items", "score", "standard_error"]
    write_csv(arguments.to / "five_sources.csv", columns, rows)

    def score(candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([found.vector for found in evaluator.evaluate(candidates)])

    own = score([Candidate.whole(name, pool.num_layers) for name in EXPERTS])
    z_star = own.max(axis=0)
    rng = np.random.default_rng(arguments.seed)
    recipes, merged = score_merges(members, score, arguments.merges, rng)
    names = [task.name for task in tasks]
    write_csv(
        arguments.to / "five_merges.csv",
        ["number", "operator", "scale", *names],
        [
            [number, recipe.operator, f"{recipe.scale:.3f}", *(f"{value:.4f}" for value in point)]
            for number, (recipe, point) in enumerate(zip(recipes, merged, strict=True))
        ],
    )
    alone, together = own / z_star, np.concatenate([own, merged]) / z_star
    print("experts alone", round(hypervolume(alone), 4))
    print(f"with {arguments.merges} merges", round(hypervolume(together), 4))
    print("best of the merges by task", dict(zip(names, merged.max(axis=0).round(3), strict=True)))
    print("best mean of f / z*", round(float((merged / z_star).mean(axis=1).max()), 3))


if __name__ == "__main__":
    main()

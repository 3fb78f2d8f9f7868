"""How far two fronts differ beyond the luck of the items, where seeds are too few for an interval.

A hypervolume on the test split is a function of some hundred items. Drawing as many of them again,
with replacement and the same ones for every search, says how much of a difference between two
searches hangs on which items were asked; what another seed would find it does not say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from experiments.common.records import Record
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.objectives.indicators import hypervolume
from hm3rl.run.finished import FinishedRun

RESAMPLES = 1000
SEED = 0


def scores_by_item(record: Record) -> tuple[list[np.ndarray], np.ndarray]:
    """The test scores of a finished search's front by scores, and of the experts.

    Args:
        record: A finished search.

    Returns:
        By task an array of shape (models, items), and which of the models are experts.
    """
    experts = set()
    with (record.folder / "archive.jsonl").open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            name = line["candidate"]["path"].split(" |")[0]
            if line["phase"] == "sources" and name in record.summary["sources"]:
                experts.add(line["key"])
    # Where the front shown goes by posterior means, its models have test scores, too.
    wanted = {*experts, *FinishedRun(record.folder).archive.front_keys()}
    with EvaluationStore(record.folder / "evaluations.sqlite") as store:
        found = [
            evaluation
            for condition, evaluation in store.evaluations()
            if evaluation.ok
            and evaluation.split == "test"
            and evaluation.fidelity == "full"
            and evaluation.key in wanted
        ]
    tasks = record.summary["objectives"]
    by_task = [np.stack([np.asarray(e.per_item[task]) for e in found]) for task in tasks]
    return by_task, np.array([e.key in experts for e in found])


def resampled(rows: Sequence[Record], resamples: int = RESAMPLES) -> np.ndarray:
    """Test hypervolumes of several searches on the same resampled items.

    Args:
        rows: Finished searches of one problem.
        resamples: Number of draws.

    Returns:
        Shape (searches, resamples + 1); the first column is of the items themselves.
    """
    rng = np.random.default_rng(SEED)
    searches = [scores_by_item(row) for row in rows]
    sizes = [scores.shape[1] for scores in searches[0][0]]
    draws = [[np.arange(size) for size in sizes]]
    draws += [[rng.integers(size, size=size) for size in sizes] for _ in range(resamples)]
    return np.array([[_volume(*search, draw) for draw in draws] for search in searches])


def _volume(by_task: list[np.ndarray], experts: np.ndarray, draw: list[np.ndarray]) -> float:
    vectors = np.stack(
        [scores[:, items].mean(axis=1) for scores, items in zip(by_task, draw, strict=True)], axis=1
    )
    return hypervolume(vectors / vectors[experts].max(axis=0))


def items_table(rows: Sequence[Record], reference: str) -> list[str]:
    """Lines of a Markdown table: each search against the reference's of the same seed and budget.

    Args:
        rows: Finished searches of one problem.
        reference: Variant that the others are compared with.
    """
    lines = [
        f"| method | budget | seed | test | {reference} minus it | P over items |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    ours = {(row.budget, row.seed): row for row in rows if row.variant == reference}
    for row in rows:
        own = ours.get((row.budget, row.seed))
        if own is None or row.variant == reference:
            continue
        mine, theirs = resampled([own, row])
        gap = mine - theirs
        half = 1.96 * gap[1:].std(ddof=1)
        lines.append(
            f"| {row.variant} | {row.budget} | {row.seed} | {theirs[0]:.4f} "
            f"| {gap[0]:+.4f} ± {half:.4f} | {(gap[1:] > 0).mean():.2f} |"
        )
    return lines

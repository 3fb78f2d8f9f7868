"""How well few items rank candidates, from the scores per item of finished searches.

Nothing is scored again: the store holds each candidate's score on every search item.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import spearmanr

from experiments.common.figures import draw_bars
from experiments.common.methods import method
from experiments.common.plan import Context, Study
from experiments.common.records import Record, records
from experiments.common.tables import written
from hm3rl.evaluation.fidelity import Fidelity
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.files import write_csv, write_text
from hm3rl.objectives.statistics import interquartile_interval
from hm3rl.run.finished import FinishedRun

SHARES = (0.05, 0.1, 0.25, 0.5)
LIKELIHOOD = "likelihood"
"""Ranks by the mean negative log-likelihood of the references, all items, nothing decoded."""

TOP, KEPT = 0.1, 0.25
"""The best tenth by the full score should be in the quarter that a lower fidelity would keep."""


def ranked(record: Record) -> dict[tuple[str, str], tuple[float, float]]:
    """What each fidelity says about the candidates of a search, compared with all items.

    Args:
        record: A finished search with a store of its own.

    Returns:
        By (fidelity, task): Spearman's correlation with the full score, and the share of the best
        tenth that is in the kept quarter. The task "mean" is the mean of f / z*.
    """
    run = FinishedRun(record.folder)
    evaluator = run.problem.evaluator
    items = {f"items:{s:g}": evaluator.items("search", Fidelity(s)) for s in SHARES}
    evaluator.close()
    with EvaluationStore(run.folder.store) as store:
        found = [
            evaluation
            for condition, evaluation in store.evaluations()
            if evaluation.ok and evaluation.split == "search" and evaluation.fidelity == "full"
        ]
    full = {task: np.array([e.per_item[task].mean() for e in found]) for task in run.objectives}
    guesses: dict[str, Mapping[str, np.ndarray]] = {
        name: {
            task: np.array([e.per_item[task][list(numbers[task])].mean() for e in found])
            for task in run.objectives
        }
        for name, numbers in items.items()
    }
    guesses[LIKELIHOOD] = {
        task: np.array([-e.per_item_nll[task].mean() for e in found]) for task in run.objectives
    }
    z_star = dict(zip(run.objectives, run.summary["z_star"]["search"], strict=True))
    result = {}
    for name, guess in guesses.items():
        pairs = {task: (guess[task], full[task]) for task in run.objectives}
        if name != LIKELIHOOD:  # likelihoods of different tasks have no common unit
            pairs["mean"] = (_mean(guess, z_star), _mean(full, z_star))
        for task, (low, high) in pairs.items():
            if np.ptp(low) and np.ptp(high):
                result[name, task] = (float(spearmanr(low, high).statistic), _kept(low, high))
    return result


def _mean(scores: Mapping[str, np.ndarray], z_star: Mapping[str, float]) -> np.ndarray:
    return np.asarray(np.mean([scores[task] / z_star[task] for task in scores], axis=0))


def _kept(guess: np.ndarray, truth: np.ndarray) -> float:
    """Share of the truly best tenth that lies in the quarter the guess keeps."""
    best = np.argsort(-truth, kind="stable")[: max(round(TOP * len(truth)), 1)]
    keep = np.argsort(-guess, kind="stable")[: max(round(KEPT * len(truth)), 1)]
    return float(np.isin(best, keep).mean())


def write(study: Study, context: Context) -> None:
    """Write fidelity.csv, table.md and spearman.png."""
    rows: list[list[object]] = []
    by_row: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for record in records(study, context.root):
        for (name, task), (rank, kept) in ranked(record).items():
            rows.append([record.seed, name, task, f"{rank:.4f}", f"{kept:.4f}"])
            by_row.setdefault((name, task), []).append((rank, kept))
    columns = ["seed", "fidelity", "task", "spearman", "best_tenth_in_kept_quarter"]
    write_csv(context.results / "fidelity.csv", columns, rows)
    lines = ["| fidelity | task | Spearman | best tenth kept |", "|---|---|---:|---:|"]
    for (name, task), values in by_row.items():
        cells = [written(interquartile_interval([column]), 3) for column in np.array(values).T]
        lines.append(f"| {name} | {task} | {' | '.join(cells)} |")
    write_text(context.results / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    draw_bars(
        {f"{name}, {task}": [rank for rank, _ in v] for (name, task), v in by_row.items()},
        "Spearman correlation with the score on all search items",
        context.results / "spearman.png",
    )


STUDY = Study(
    name="fidelity",
    variants={"random": method("random", {300: 5})},
    write=write,
    runs="fronts",
)

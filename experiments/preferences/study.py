"""Preferences no training saw: what hm3 answers without an evaluation, with one, with ten.

For each finished hm3 run and preference, five answers, each scored on the test split and compared
with the best single expert under that preference; see `ANSWERS` and README.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.common.figures import draw_bars
from experiments.common.methods import method
from experiments.common.plan import Context, Study
from experiments.common.records import Record, records
from experiments.common.tables import written
from hm3rl.files import write_csv, write_text
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import scalarise
from hm3rl.objectives.statistics import interquartile_interval
from hm3rl.objectives.utility import OWN
from hm3rl.paths.candidate import Candidate
from hm3rl.run.finished import FinishedRun
from hm3rl.run.pick import pick

COUNT, SHRUNK_COUNT = 20, 3
REFINE, SHRUNK_REFINE = 10, 2
"""Evaluations for the refined answer, beside the one of the decoded path."""

PREFERENCE_SEED = 20260522
"""Of the preferences; the searches draw theirs from their own seeds, 0 to 4."""

ANSWERS = {
    "greedy": "policy's greedy path, zero evaluations",
    "agent": "agent's decoded path, zero evaluations",
    "front": "best of the front by search scores, zero evaluations",
    "pick": "`pick`: agent or front, one evaluation",
    "refined": f"`pick --budget {REFINE}`",
}


def answers(run: FinishedRun, preference: np.ndarray, refine: int) -> dict[str, Candidate]:
    """The candidate of each answer, by key of `ANSWERS`.

    Args:
        run: A finished run of hm3.
        preference: Shape (K,).
        refine: Evaluations of the refined answer.
    """
    # Answers that score something get networks of their own: `pick` teaches them what it scores.
    one, many = (FinishedRun(run.folder.path, run.problem) for _ in range(2))
    return {
        "greedy": pick(run, preference, evaluate=False, beam=0).candidate,
        "agent": pick(run, preference, evaluate=False).candidate,
        "front": run.candidate(run.best(preference)[0]),
        "pick": pick(one, preference, utility=OWN).candidate,
        "refined": pick(many, preference, budget=refine, utility=OWN).candidate,
    }


def utilities(record: Record, count: int, refine: int) -> list[list[float]]:
    """Test utilities under each preference: the preference, one column an answer, the best expert.

    Args:
        record: A finished run of hm3.
        count: Number of preferences.
        refine: Evaluations of the refined answer.

    Returns:
        One row a preference, of K + len(ANSWERS) + 1 numbers.
    """
    run = FinishedRun(record.folder)
    z_test = np.array(run.summary["z_star"]["test"])
    experts = np.array([s["test"] for s in run.summary["sources"].values()]) / z_test
    rng = np.random.default_rng(PREFERENCE_SEED)
    rows = []
    for preference in sample_dirichlet(count, len(run.objectives), rng):
        found = answers(run, preference, refine)
        tested = run.problem.rescore(list(found.values()), split="test", secondary=False)
        values = [float(scalarise(e.vector / z_test, preference)) for e in tested]
        rows.append([*preference, *values, float(scalarise(experts, preference).max())])
    run.problem.evaluator.close()
    return rows


def table(gains: Mapping[str, Mapping[int, Sequence[float]]]) -> list[str]:
    """Lines of the Markdown table, from gains over the best expert by answer and seed."""
    lines = [
        "| answer | at least the best single expert | gain in utility (test, f / z\\*) |",
        "|---|---:|---:|",
    ]
    for name, by_seed in gains.items():
        every = np.concatenate([np.array(values) for values in by_seed.values()])
        means = np.array([np.mean(values) for values in by_seed.values()])
        lines.append(
            f"| {ANSWERS[name]} | {(every >= 0).mean():.0%} of {len(every)} "
            f"| {written(interquartile_interval([means]))} |"
        )
    return lines


def write(study: Study, context: Context) -> None:
    """Write preferences.csv, preferences.md and gains.png."""
    count, refine = (SHRUNK_COUNT, SHRUNK_REFINE) if context.shrunk else (COUNT, REFINE)
    rows: list[list[object]] = []
    gains: dict[str, dict[int, list[float]]] = {name: {} for name in ANSWERS}
    runs = records(study, context.root)
    for record in runs:
        for number, row in enumerate(utilities(record, count, refine)):
            rows.append([record.seed, number, *(f"{value:.4f}" for value in row)])
            for name, value in zip(ANSWERS, row[-len(ANSWERS) - 1 :], strict=False):
                gains[name].setdefault(record.seed, []).append(value - row[-1])
    columns = ["seed", "preference", *runs[0].summary["objectives"]]
    columns += [f"utility_{name}" for name in (*ANSWERS, "best_expert")]
    write_csv(context.results / "preferences.csv", columns, rows)
    lines = table(gains)
    note = (
        "Interquartile mean over seeds of the mean gain over preferences, with its 95 % bootstrap "
        "interval."
    )
    write_text(context.results / "preferences.md", "\n".join([*lines, "", note]) + "\n")
    print("\n".join(lines))
    means = {name: [float(np.mean(v)) for v in seeds.values()] for name, seeds in gains.items()}
    label = "gain in utility over the best expert (test split)"
    draw_bars(means, label, context.results / "gains.png")


STUDY = Study(
    name="preferences",
    variants={"hm3": method("hm3", {300: 5})},
    write=write,
    runs="fronts",
)

"""Twenty preferences no training saw: is the picked model as good as the best single expert?

    python -m experiments.first_front.preferences --budget 300

For each finished hm3 run, three answers: what `pick` gives (the better of the agent's decoded path
and the front, by search scores); the agent's decoded path (policy samples, improved and ranked by
its outcome model; nothing is evaluated); the policy's greedy path alone. Each is scored on the test
split, against the best of the three experts under the same preference.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from experiments.first_front.table import RESULTS, load
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import scalarise
from hm3rl.runs import write_csv, write_text
from hm3rl.search.finished import FinishedRun
from hm3rl.search.pick import pick

COUNT = 20
ANSWERS = {
    "pick": "`pick`: agent or front",
    "agent": "agent's decoded path, zero evaluations",
    "greedy": "policy's greedy path, zero evaluations",
}
PREFERENCE_SEED = 20260522
"""Of the 20 preferences; the searches draw theirs from their own seeds, 0 to 4."""


def main() -> None:
    """Write results/preferences.csv and preferences.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--root", type=Path, default=Path("runs/first_front"))
    args = parser.parse_args()
    rows: list[list[object]] = []
    wins: dict[str, list[bool]] = {name: [] for name in ANSWERS}
    gains: dict[str, list[float]] = {name: [] for name in ANSWERS}
    for seed, folder in load(args.root, args.budget)["hm3"].items():
        run = FinishedRun(folder)
        preferences = sample_dirichlet(
            COUNT, len(run.objectives), np.random.default_rng(PREFERENCE_SEED)
        )
        z_test = np.array(run.summary["z_star"]["test"])
        experts = np.array([s["test"] for s in run.summary["sources"].values()]) / z_test
        for number, preference in enumerate(preferences):
            # Decoded first: `pick` teaches the agent the path it scores.
            decoded = pick(run, preference, evaluate=False)
            greedy = pick(run, preference, evaluate=False, beam=0)
            chosen = pick(run, preference)
            candidates = [chosen.candidate, decoded.candidate, greedy.candidate]
            tested = run.problem.rescore(candidates, split="test", secondary=False)
            utilities = [float(scalarise(e.vector / z_test, preference)) for e in tested]
            best = float(scalarise(experts, preference).max())
            for name, utility in zip(ANSWERS, utilities, strict=True):
                wins[name].append(utility >= best)
                gains[name].append(utility - best)
            rows.append(
                [
                    *(seed, number, *(f"{w:.4f}" for w in preference), chosen.origin),
                    *(f"{u:.4f}" for u in (*utilities, best)),
                ]
            )
    write_csv(
        RESULTS / "preferences.csv",
        [
            *("seed", "preference", *run.objectives, "origin"),
            *("utility_pick", "utility_agent", "utility_greedy", "utility_best_expert"),
        ],
        rows,
    )
    lines = [
        "| answer | at least the best single expert | mean gain in utility (test, f / z*) |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {ANSWERS[name]} | {np.mean(wins[name]):.0%} of {len(rows)} "
        f"| {np.mean(gains[name]):+.4f} |"
        for name in ANSWERS
    ]
    write_text(RESULTS / "preferences.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

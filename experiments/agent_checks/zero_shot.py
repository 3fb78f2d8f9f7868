"""Twenty unseen preferences: the policy's path at no evaluation, against a search made for each.

    python -m experiments.agent_checks.zero_shot runs/fronts/hm3/budget300-seed0

For each finished hm3 run and each preference, scored on the test split, scalarised by f / z*:

- `greedy`: the policy's greedy path; `decoded`: its samples improved and ranked by the surrogate.
  Neither asks for an evaluation.
- `dedicated`: the best, by search scores, of a search for this preference alone: an agent that
  serves one preference, screens by expected utility and starts from nothing but the members' own
  points (and the merges the run scored), 34 evaluations offline and 66 online. It is given the
  run's pool of members for nothing.
- `expert`: the best single expert.

`--distil` teaches the policy anew from the run's stored evaluations, for runs that were made before
that was the last step of every search. The CSV is extended after each preference; rows already
there are not computed again.

The committed rows are the 20 preferences for seed 0 of `../fronts` (hm3 at 300 evaluations, commit
6bde75c), computed at commit 010d163.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.model_generated import distil, refit
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.files import write_csv, write_text
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import scalarise
from hm3rl.paths.candidate import Candidate
from hm3rl.run.finished import FinishedRun
from hm3rl.run.pick import BEAM
from hm3rl.search.architecture_level import known_outcomes, path_scorer, to_candidate

RESULTS = Path(__file__).parent / "results"
COLUMNS = ["problem", "variant", "seed", "metric", "value"]
PREFERENCE_SEED = 20261122
"""Of the unseen preferences; the searches draw theirs from their own seeds."""

OFFLINE_SHARE = 0.34
VARIANTS = ("greedy", "decoded", "dedicated", "expert")


def dedicated(run: FinishedRun, preference: np.ndarray, budget: int) -> Candidate:
    """The best candidate of a search for one preference alone.

    Args:
        run: Lends members, evaluator and the merges it scored.
        preference: Shape (K,).
        budget: Evaluations.

    Returns:
        The best by search scores.
    """
    assert isinstance(run.agent, MergeAgent)
    problem = MergeProblem(
        run.problem.members,
        run.problem.evaluator,
        run.problem.limits,
        budget + len(run.agent.space.members),
        fidelity=str(run.problem.fidelity),
    )
    problem.prepare()
    names = run.agent.space.members
    merged = [name for name in names if problem.members.is_merged(name)]
    # The members' own points are given; the budget counts from here on.
    problem.evaluate(
        [_whole(problem, name) for name in merged],
        "members",
    )
    given = problem.used
    own = run.agent.state.settings
    own = replace(own, acquisition=replace(own.acquisition, function="utility"), distil_steps=0)
    settings = replace(run.settings, agent=own)
    agent = MergeAgent.fresh(run.agent.space, problem.objectives, settings, preference)
    agent.absorb(*known_outcomes(problem, names))
    if run.agent.state.surrogate.auxiliary is not None:
        agent.state.set_auxiliary(run.agent.state.surrogate.auxiliary)
    offline = round(OFFLINE_SHARE * budget)
    agent.offline(path_scorer(problem, "offline"), offline, lambda values: None)
    agent.online(path_scorer(problem, "online"), budget - offline, lambda values: None)
    assert problem.used - given <= budget
    lengths = {key: problem.candidate(key).path.length for key in problem.archive.keys}
    return problem.candidate(problem.archive.best(preference, run.utility, lengths))


def _whole(problem: MergeProblem, name: str) -> Candidate:
    recipe = problem.members.recipe(name)
    assert recipe is not None  # `name` is a merged member
    return Candidate.whole(recipe, problem.pool.num_layers)


def answers(run: FinishedRun, preference: np.ndarray, budget: int) -> dict[str, float]:
    """Utility on the test split of each answer to a preference."""
    assert isinstance(run.agent, MergeAgent)
    agent = run.agent
    candidates = {
        "greedy": to_candidate(run.problem, agent.decode(preference)),
        "decoded": to_candidate(run.problem, agent.decode(preference, beam=BEAM)),
        "dedicated": dedicated(run, preference, budget),
    }
    z_test = np.array(run.summary["z_star"]["test"])
    experts = np.array([scores["test"] for scores in run.summary["sources"].values()]) / z_test
    tested = run.problem.rescore(list(candidates.values()), split="test", secondary=False)
    found = {
        name: float(scalarise(evaluation.vector / z_test, preference))
        for name, evaluation in zip(candidates, tested, strict=True)
    }
    return {**found, "expert": float(scalarise(experts, preference).max())}


def table(rows: list[list[str]]) -> list[str]:
    """Mean utilities and their share of the dedicated search's, by run and over all."""
    values = {(row[1], row[2], row[3]): float(row[4]) for row in rows}
    seeds = sorted({seed for _, seed, _ in values}, key=int)
    lines = [
        "| seed | preferences | greedy | decoded | dedicated | expert | greedy / dedicated "
        "| decoded / dedicated | worst greedy / dedicated |",
        "|---|" + "---:|" * 8,
    ]
    for name, group in [*((seed, [seed]) for seed in seeds), ("all", seeds)]:
        keys = sorted({(s, m) for _, s, m in values if s in group})
        columns = {v: np.array([values[v, s, m] for s, m in keys]) for v in VARIANTS}
        means = {v: column.mean() for v, column in columns.items()}
        worst = (columns["greedy"] / columns["dedicated"]).min()
        lines.append(
            f"| {name} | {len(keys)} | "
            + " | ".join(f"{means[v]:.4f}" for v in VARIANTS)
            + f" | {means['greedy'] / means['dedicated']:.1%}"
            + f" | {means['decoded'] / means['dedicated']:.1%} | {worst:.1%} |"
        )
    return lines


def main() -> None:
    """Write results/zero_shot.csv and zero_shot.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "zero_shot.csv")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    if args.out.is_file():
        with args.out.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))[1:]
    for folder in args.runs:
        run = FinishedRun(folder)
        if not isinstance(run.agent, MergeAgent):
            parser.error(f"{folder} has no agent for every preference; give runs of search=hm3")
        if args.distil:
            with run.agent.state.working():
                refit(run.agent.state)
                distil(run.agent.state, lambda values: None)
        seed = str(run.settings.seed)
        preferences = sample_dirichlet(
            args.count, len(run.objectives), np.random.default_rng(PREFERENCE_SEED)
        )
        for number, preference in enumerate(preferences):
            metric = f"test_utility_{number:02d}"
            if any(row[2:4] == [seed, metric] for row in rows):
                continue
            for variant, value in answers(run, preference, args.budget).items():
                rows.append(["tiny_zoo", variant, seed, metric, f"{value:.4f}"])
            write_csv(args.out, COLUMNS, rows)
            print(seed, metric, *(row[4] for row in rows[-len(VARIANTS) :]), flush=True)
    lines = table(rows)
    write_text(args.out.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

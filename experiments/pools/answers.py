"""A preference that no search saw: which model does each method name, at no further evaluation?

    python -m experiments.pools.answers --methods psl none layer_bo --budget 100
    python -m experiments.pools.answers --methods psl none layer_bo --budget 100 --no-run

Answers of one finished search (made, or gone on with, where it is not finished), for the same
`PREFERENCES` preferences on each pool:

`front`     the best of what was evaluated, by posterior means where the agent has them, else by
            scores: the null, for which neither network nor surrogate is asked anything.
`network`   the policy's answer by itself.
`decoded`   the policy's answer and the best known, improved by gradients under the surrogate, which
            chooses; without a network the best known alone.

A model is worth its Tchebycheff utility (the runs' own) in held-out f / z*. Rows of
`results/answers.csv` are means over the preferences; of rows with the same key the last counts.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.pools import judgements
from experiments.pools.methods import METHODS
from experiments.pools.plugin import N_SEARCH, N_TEST
from experiments.pools.pools import DEVELOPED, ZOO, pools
from experiments.pools.posterior import finished
from experiments.pools.results import RESULTS, Key
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.paths.candidate import Candidate
from hm3rl.run.conclusion import experts
from hm3rl.run.finished import FinishedRun
from hm3rl.run.pick import BEAM
from hm3rl.search.architecture_level import to_candidate

FILE = "answers.csv"
COLUMNS = (*Key._fields, "answer", "utility", "commit")
FRONT, NETWORK, DECODED = "front", "network", "decoded"
PREFERENCES, SEED = 30, 20261130
UNTRAINED = ("none", "none_prior")
"""Methods with an agent and without a policy."""


def named(run: FinishedRun, goals: np.ndarray, network: bool) -> dict[str, list[Candidate]]:
    """The models that a run names for preferences (n, K), by kind of answer."""
    archive = run.archive if run.posterior is None else run.posterior.means
    keys = archive.front_keys()
    values = np.array([archive.vector(key) for key in keys]) / archive.z_star
    best = run.utility(values[:, None], 0, goals[None]).argmax(axis=0)
    found = {FRONT: [run.candidates[keys[i]] for i in best]}
    if run.agent is None:
        return found
    if network:
        found[NETWORK] = [to_candidate(run.problem, run.agent.decode(goal)) for goal in goals]
    found[DECODED] = [to_candidate(run.problem, run.agent.decode(goal, BEAM)) for goal in goals]
    return found


def worth(
    run: FinishedRun, goals: np.ndarray, answers: Mapping[str, Sequence[Candidate]]
) -> dict[str, float]:
    """Mean held-out utility of answers to preferences (n, K), by kind."""
    problem = run.problem
    own = problem.rescore(experts(problem), "test", secondary=False)
    best = np.array([one.vector for one in own]).max(axis=0)
    found = {}
    for kind, models in answers.items():
        scored = problem.rescore(models, "test", secondary=False)
        failed = [one.key for one in scored if not one.ok]
        if failed:
            raise RuntimeError(f"{kind}: models {', '.join(failed)} cannot be scored")
        vectors = np.array([one.vector for one in scored]) / best
        found[kind] = float(run.utility(vectors, 0, goals).mean())
    return found


def known(folder: Path) -> dict[tuple[Key, str], float]:
    """Utilities by key and kind of answer."""
    file = folder / FILE
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {
            (
                Key(row["pool"], row["method"], int(row["seed"]), int(row["budget"])),
                row["answer"],
            ): float(row["utility"])
            for row in csv.DictReader(stream)
        }


def table(rows: Mapping[tuple[Key, str], float], methods: Sequence[str], budget: int) -> str:
    """Markdown: a row for each kind of answer of each method, pools that all have; seed 0."""
    kinds = [(m, kind) for m in methods for kind in (FRONT, NETWORK, DECODED)]
    kinds = [
        one
        for one in kinds
        if any(
            key.method == one[0] and key.budget == budget and kind == one[1] for key, kind in rows
        )
    ]
    having = [
        {
            key.pool
            for key, k in rows
            if (key.method, k, key.budget, key.seed) == (m, kind, budget, 0)
        }
        for m, kind in kinds
    ]
    shared = sorted(set.intersection(*having)) if having else []
    if not shared:
        return "No pool has all of these answers."
    values = {
        (m, kind): np.array([rows[Key(pool, m, 0, budget), kind] for pool in shared])
        for m, kind in kinds
    }
    about = f"{len(shared)} pools: {', '.join(shared)}; {budget} evaluations"
    lines = [
        f"{about}, {PREFERENCES} preferences\n",
        "| method | answer | utility | less its front | better on |",
        "|---|---|---:|---:|---:|",
    ]
    for (m, kind), found in values.items():
        less = found - values[m, FRONT]
        error = less.std(ddof=1) / np.sqrt(len(less)) if len(less) > 1 else float("nan")
        apart = "" if kind == FRONT else f"{less.mean():+.4f} ± {error:.4f}"
        count = "" if kind == FRONT else f"{(less > 0).sum()} of {len(less)}"
        lines.append(f"| {m} | {kind} | {found.mean():.4f} | {apart} | {count} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Ask every search that has no rows yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    development = [name for name in pools(DEVELOPED) if name != ZOO]
    parser.add_argument("--pools", nargs="+", choices=[*pools(DEVELOPED)], default=development)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=["psl", "none"])
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--root", type=Path, default=Path("runs/pools"), help="run folders")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--no-run", action="store_true", help="print the table of what there is")
    parser.add_argument(
        "--items", nargs=2, type=int, default=[N_SEARCH, N_TEST], help="of search and held-out"
    )
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    have = known(args.results)
    for name in args.pools if not args.no_run else ():
        for method in args.methods:
            key = Key(name, method, 0, args.budget)
            if (key, FRONT) in have:
                continue
            run = finished(key, pools(DEVELOPED)[name], args.root, tuple(args.items))
            goals = sample_dirichlet(
                PREFERENCES, len(run.problem.objectives), np.random.default_rng(SEED)
            )
            found = worth(run, goals, named(run, goals, method not in UNTRAINED))
            run.problem.evaluator.close()
            run.problem.evaluator.store.close()
            _append(args.results, key, found)
            said = ", ".join(f"{kind} {value:.4f}" for kind, value in found.items())
            print(f"{name} {method}: {said}", flush=True)
    print(table(known(args.results), args.methods, args.budget))


def _append(folder: Path, key: Key, found: Mapping[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file, commit = folder / FILE, judgements.commit()
    fresh = not file.is_file()
    with file.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerows([*key, kind, f"{value:.6f}", commit] for kind, value in found.items())


if __name__ == "__main__":
    main()

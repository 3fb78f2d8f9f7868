r"""Draw the evaluation benchmark's workload from a search that was stopped half-way.

    hm3rl search threads=1 seed=0 budget=75 planned_budget=100 output=RUN \
        tasks.translation.search_items=60 tasks.math.search_items=60 tasks.code.search_items=60
    python -m experiments.benchmarks.workloads.build RUN

The search plans for 100 evaluations and stops in the middle of its online phase. `rollouts` are 64
different unscreened paths of its policy under preferences drawn uniformly; `neighbours` are 64
different paths that differ in one to three layers from the path that is best when all tasks weigh
the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.decoding import roll_out
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.space import PathSpace
from hm3rl.run.finished import FinishedRun

WORKLOAD = Path(__file__).with_name("evaluation.json")
SIZE = 64
SEED = 0


def rollouts(agent: MergeAgent, rng: np.random.Generator) -> list[LayerPath]:
    """Draw different paths from the policy as it explores."""
    found: dict[LayerPath, None] = {}
    while len(found) < SIZE:
        preferences = sample_dirichlet(SIZE, len(agent.state.objectives), rng)
        rows = roll_out(agent.state.policy, agent.space, preferences, 1.0, rng)
        found.update((agent.space.decode(row), None) for row in rows)
    return list(found)[:SIZE]


def neighbours(path: LayerPath, space: PathSpace, rng: np.random.Generator) -> list[LayerPath]:
    """Draw different paths with one to three layers of `path` lent by other members."""
    found: dict[LayerPath, None] = {}
    while len(found) < SIZE:
        refs = list(path.refs)
        for depth in rng.choice(len(refs), size=rng.integers(1, 4), replace=False):
            others = [name for name in space.members if name != refs[depth].member]
            refs[depth] = LayerRef(str(rng.choice(others)), refs[depth].layer)
        found[LayerPath(tuple(refs), path.stem)] = None
    return list(found)


def main() -> None:
    """Write the workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = FinishedRun(parser.parse_args().run)
    agent = run.agent
    assert isinstance(agent, MergeAgent)
    rng = np.random.default_rng(SEED)
    even = np.full(len(agent.state.objectives), 1 / len(agent.state.objectives))
    best = run.candidate(run.best(even)[0])
    paths = {
        "rollouts": [str(path) for path in rollouts(agent, rng)],
        "neighbours": [str(path) for path in neighbours(best.path, agent.space, rng)],
    }
    recipes = {recipe.name: recipe.to_dict() for recipe in run.problem.members.recipes}
    used = {name: recipes[name] for name in agent.space.members if name in recipes}
    plain = {"centre": str(best.path), "recipes": used, **paths}
    WORKLOAD.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    print(f"{WORKLOAD}: {SIZE} rollouts, {SIZE} neighbours of {best.path}")


if __name__ == "__main__":
    main()

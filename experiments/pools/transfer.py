"""What other pools teach: evaluations to learn from, and priors that do not know a pool's tasks.

    python -m experiments.pools.transfer collect     # results/transfer.zip; half an hour of a core
    python -m experiments.pools.transfer foretell    # how well unseen tasks are foretold
    python -m experiments.pools.transfer priors      # one for each development pool, in runs/
    python -m experiments.pools.run --set development --budgets 8 16 24 40 \
        --methods none none_prior psl psl_prior

A prior for a development pool has seen no score on any of the pool's tasks; experts of these tasks
it may have seen as what disturbs others. Experts are those of development tasks alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.pools.methods import PRIORS, overrides
from experiments.pools.plugin import N_SEARCH
from experiments.pools.pools import DEVELOPED, ZOO, Pool, pools
from experiments.pools.results import RESULTS
from experiments.pools.settings import DEVELOPMENT, EXPERTS
from hm3rl import api
from hm3rl.agents.prior import Prior
from hm3rl.events import NullLogger
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.depth import depth_basis, frequencies
from hm3rl.run.build import build_problem
from hm3rl.search.architecture_level import blend_space, known_outcomes, to_candidate
from hm3rl.surrogate.pool_table import PoolTable, read_tables, write_tables

FILE = RESULTS / "transfer.zip"
SEEDS = range(1008, 1061)
"""A pool is drawn for each."""

MODELS_EACH = 40
SIZES, SHARES = (2, 3, 4, 5), (0.25, 0.35, 0.25, 0.15)


def drawn_blends(space: BlendSpace, count: int, rng: np.random.Generator) -> np.ndarray:
    """Blends that fill the cube of coefficients; three of four vary smoothly over the depth.

    Some have little of one expert, so that what it does to others is seen.
    """
    places, experts = space.shape
    values = np.linalg.inv(depth_basis(space.depth))
    decay = 1.0 / (1.0 + frequencies(space.depth))
    found = []
    for i in range(count):
        level = rng.random(experts)
        if i % 4 == 0:
            blend = np.tile(level, (places, 1))
        else:
            components = rng.normal(size=space.shape) * (rng.uniform(0.1, 0.5) * decay[:, None])
            components[0] = level
            blend = values @ components
        if experts > 2 and rng.random() < 0.3:
            blend[:, rng.integers(experts)] *= rng.random() * 0.3
        found.append(np.clip(blend, 0.0, 1.0))
    return space.rounded(np.array(found))


def collect(seed: int, stores: Path) -> PoolTable:
    """Draw a pool of development experts and score drawn blends, on its tasks and on one more."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice(SIZES, p=SHARES))
    tasks = [DEVELOPMENT[i] for i in sorted(rng.permutation(len(DEVELOPMENT))[:size])]
    choices = [[name for name, one in EXPERTS.items() if one.task == task] for task in tasks]
    experts = tuple(names[rng.integers(len(names))] for names in choices)
    pool = Pool(f"R{seed}", DEVELOPED, experts)
    words = overrides(pool)
    other = rng.permutation([task for task in DEVELOPMENT if task not in tasks])[0]
    words += [f"+tasks.{other}.kind={other}", f"+tasks.{other}.search_items={N_SEARCH}"]
    settings = api.settings(*words, "agent=psl")
    store = stores / f"{pool.name}.sqlite"
    store.parent.mkdir(parents=True, exist_ok=True)
    problem = build_problem(settings, store, NullLogger())
    try:
        problem.prepare()
        space = blend_space(problem, 1.0)
        names = [problem.pool.base_name, *space.experts]
        _, sources = known_outcomes(problem, names)
        paths = [space.decode(blend) for blend in drawn_blends(space, MODELS_EACH, rng)]
        asked = [to_candidate(problem, path) for path in paths]
        scored = [one for one in problem.rescore(asked, "search", secondary=False) if one.ok]
        found = {problem.key(one): space.encode(one) for one in asked}
        own = np.concatenate([np.zeros((1, len(experts))), np.eye(len(experts))])
        blends = [*space.uniform(own), *(found[one.key] for one in scored)]
        vectors = [one.vector for one in sources]
        vectors += [problem.normalise(one.vector) for one in scored]
        return PoolTable(
            pool.name,
            problem.pool.hashes[problem.pool.base_name],
            {name: problem.pool.hashes[name] for name in space.experts},
            problem.objectives,
            np.array(blends),
            np.array(vectors),
        )
    finally:
        problem.evaluator.close()
        problem.evaluator.store.close()


def main(words: Sequence[str] | None = None) -> None:
    """Collect, foretell or learn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["collect", "foretell", "priors"])
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--stores", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--pools", nargs="+", help="for these alone")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    if args.what == "collect":
        have = list(read_tables(args.file)[0]) if args.file.is_file() else []
        for seed in SEEDS:
            if f"R{seed}" not in {table.pool for table in have}:
                have.append(collect(seed, args.stores.resolve()))
                write_tables(args.file, have)
                print(have[-1].pool, ", ".join(have[-1].experts), flush=True)
        return
    tables = read_tables(args.file)[0]
    if args.what == "foretell":
        prior = Prior.learn(tables, say=print)
        print(f"all: error {prior.scores.error:.3f}")
        return
    for name, pool in pools(DEVELOPED).items():
        if name != ZOO and (not args.pools or name in args.pools):
            prior = Prior.learn(tables, without=pool.tasks)
            PRIORS.mkdir(parents=True, exist_ok=True)
            prior.save(PRIORS / f"{name}.zip")
            print(f"{name}: error on other tasks {prior.scores.error:.3f}", flush=True)


if __name__ == "__main__":
    main()

"""Pools imitated by a Gaussian process: a search of 40 takes two seconds instead of a minute.

    python -m experiments.pools.imitation collect --root runs/pools    # results/searches.zip
    python -m experiments.pools.imitation try --pools D01 D04 --seeds 0 1 --budget 40 \
        --settings "agent=none" "agent=none agent.batch=8"

For trying settings of agents over blends; what is decided is then searched for on the pools
themselves (`tuning.py`). An imitation is fitted to all blends that searches have scored on a
development pool, and is smoother than the pool. Scores get the same error whenever a blend is asked
for, and are counts of items, as real ones are.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.pools.methods import overrides
from experiments.pools.plugin import N_SEARCH
from experiments.pools.pools import DEVELOPED, ZOO, Pool, pools
from experiments.pools.results import RESULTS
from hm3rl import api, registry
from hm3rl.agents.base import Agent
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.objectives.archive import Archive
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.surrogate.blend_gp import BlendGP
from hm3rl.surrogate.dataset import Outcome
from hm3rl.surrogate.pool_table import PoolTable, read_tables, source_vectors, write_tables

FILE = RESULTS / "searches.zip"
DEPTH = 8
MOST = 1000
"""Most models of a pool that its imitation is fitted to."""

ERROR = 0.012
"""Standard deviation of what a score differs by from the imitation, in units of f / z*."""


def collected(pool: Pool, store: Path) -> PoolTable:
    """Blends with search scores in a store of a pool: sources, and at most `MOST` others."""
    space, found = BlendSpace(pool.experts, DEPTH), dict[bytes, tuple[np.ndarray, np.ndarray]]()
    with EvaluationStore(str(store), read_only=True) as opened:
        for conditions, evaluation in opened.evaluations():
            stored = opened.candidate(evaluation.key)
            if conditions.split != "search" or not evaluation.ok or stored is None:
                continue
            blend = space.encode(Candidate.from_dict(stored))
            if blend is not None and len(evaluation.vector) == len(pool.tasks):
                found[blend.tobytes()] = blend, np.asarray(evaluation.vector)
    blends = np.array([blend for blend, _ in found.values()])
    vectors = np.array([vector for _, vector in found.values()])
    sources = source_vectors(blends, vectors)
    if sources is None:
        raise SystemExit(f"{store}: no scores of base and experts")
    kept = np.random.default_rng(0).permutation(len(blends))[:MOST]
    own = np.concatenate([np.zeros((1, len(pool.experts))), np.eye(len(pool.experts))])
    return PoolTable(
        pool.name,
        "",
        dict.fromkeys(pool.experts, ""),
        pool.tasks,
        np.concatenate([space.uniform(own), blends[kept]]),
        np.concatenate([sources, vectors[kept]]) / sources[1:].max(axis=0),
    )


class Imitation:
    """A pool that answers at once; charges every model, as a problem does.

    Args:
        table: What was scored.
    """

    def __init__(self, table: PoolTable) -> None:
        self.table = table
        self.space = BlendSpace(tuple(table.experts), table.blends.shape[1] - 1)
        self._gp = BlendGP(len(table.tasks), self.space.depth, len(table.experts))
        some = slice(0, 300)
        self._gp.fit(table.blends[some], table.vectors[some], steps=80)
        self._gp.fit(table.blends, table.vectors, steps=0)
        self.reset()

    def reset(self) -> None:
        """Forget all that was asked."""
        self.archive = Archive(self.table.tasks, np.ones(len(self.table.tasks)))
        for name, vector in zip(self.table.experts, self.table.sources[1:], strict=True):
            self.archive.add(name, list(vector))

    def known(self) -> tuple[list[LayerPath], list[Outcome]]:
        """Base and experts."""
        experts = len(self.table.experts)
        own = self.space.uniform(np.concatenate([np.zeros((1, experts)), np.eye(experts)]))
        paths = [self.space.decode(blend) for blend in own]
        return paths, [Outcome(vector, -vector) for vector in self.table.sources]

    def __call__(self, paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        """Score paths; see `hm3rl.surrogate.dataset.EvaluatePaths`."""
        blends = np.array([self.space.encode(Candidate(path)) for path in paths])
        with torch.no_grad():
            means = self._gp.marginal(torch.as_tensor(blends)).mean.numpy()
        outcomes = []
        for path, mean in zip(paths, means, strict=True):
            digest = hashlib.sha256(str(path).encode()).digest()
            noise = np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(
                0.0, ERROR, len(mean)
            )
            vector = np.round(np.clip(mean + noise, 0.0, None) * N_SEARCH) / N_SEARCH
            self.archive.add(str(path), list(vector))
            outcomes.append(Outcome(vector, -vector))
        return outcomes


def tried(imitation: Imitation, words: Sequence[str], budget: int, seed: int) -> float:
    """Hypervolume that an agent's search on an imitation ends with."""
    pool = pools(DEVELOPED)[imitation.table.pool]
    settings = api.settings(*overrides(pool), *words, f"seed={seed}", f"budget={budget}")
    kind: type[Agent] = registry.find("agent", settings.agent.name).load()
    agent = kind.fresh(imitation.space, imitation.table.tasks, settings)
    imitation.reset()
    agent.absorb(*imitation.known())
    agent.online(imitation, budget, lambda values: None)
    return imitation.archive.hypervolume()


def main(words: Sequence[str] | None = None) -> None:
    """Collect, or try settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["collect", "try"])
    parser.add_argument("--root", type=Path, default=Path("runs/pools"))
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--pools", nargs="+", default=["D01", "D04", "D07", "D08"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--settings", nargs="+", default=["agent=none", "agent=psl"])
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    if args.what == "collect":
        stores = {
            name: args.root / name / "evaluations.sqlite"
            for name in pools(DEVELOPED)
            if name != ZOO
        }
        write_tables(
            args.file,
            [collected(pools()[name], store) for name, store in stores.items() if store.is_file()],
        )
        return
    tables = {table.pool: table for table in read_tables(args.file)[0]}
    imitations = [Imitation(tables[name]) for name in args.pools]
    print(f"| settings | {' | '.join(args.pools)} | mean | less the first |")
    print("|---|" + "---:|" * (len(args.pools) + 2))
    first: np.ndarray | None = None
    for setting in args.settings:
        found = np.array(
            [
                [tried(one, setting.split(), args.budget, seed) for seed in args.seeds]
                for one in imitations
            ]
        )
        first = found if first is None else first
        less = found - first
        cells = " | ".join(f"{value:.3f}" for value in found.mean(axis=1))
        error = less.std() / less.size**0.5
        print(
            f"| `{setting}` | {cells} | {found.mean():.4f} | {less.mean():+.4f} ± {error:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

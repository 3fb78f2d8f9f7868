"""Finished runs as what other pools learn from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.agents.prior import Prior
from hm3rl.errors import InputError
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.run.finished import FinishedRun
from hm3rl.surrogate.pool_table import PoolTable, read_tables


def table_of_run(run: FinishedRun) -> PoolTable:
    """All models of a run that are made of blends, with f / z*.

    Raises:
        InputError: The base is not among them; the run is of an older version that did not note
            its sources' hashes.
    """
    where = run.folder.path
    sources: dict[str, Any] = run.folder.read_environment().get("sources", {})
    experts = [name for name in run.settings.pool.experts if name in sources]
    if len(experts) != len(run.settings.pool.experts) or "base" not in sources:
        raise InputError(f"{where} does not say what its sources were", "search again")
    own = [one.path for one in run.candidates.values() if one.path.stem in experts]
    depth = next((path.length for path in own if set(path.members) == {path.stem}), 0)
    if depth == 0:
        raise InputError(f"{where} has no score of an expert by itself", "search again")
    space = BlendSpace(tuple(experts), depth, np.inf)
    rows = {key: space.encode(candidate) for key, candidate in run.candidates.items()}
    kept = {key: row for key, row in rows.items() if row is not None}
    vectors = run.archive.normalise(np.array([run.archive.vector(key) for key in kept]))
    hashes = {name: sources[name] for name in experts}
    blends = np.array(list(kept.values()))
    table = PoolTable(str(where), sources["base"], hashes, run.objectives, blends, vectors)
    table.sources  # noqa: B018 -- refuse now what has no scores of base and experts
    return table


def learned_from(paths: Sequence[Path]) -> list[PoolTable]:
    """Tables of finished runs, and those inside the files that `pretrain` wrote."""
    tables: list[PoolTable] = []
    for path in paths:
        if path.is_dir():
            tables.append(table_of_run(FinishedRun(path)))
        else:
            tables += read_tables(path)[0]
    return tables


def pretrain(
    paths: Sequence[Path],
    to: Path,
    seed: int,
    without: Collection[str],
    say: Callable[[str], None],
) -> Prior:
    """Learn a prior from finished runs and earlier priors, and write it; see `Prior.learn`."""
    prior = Prior.learn(learned_from(paths), seed, without, say)
    to.parent.mkdir(parents=True, exist_ok=True)
    prior.save(to)
    return prior

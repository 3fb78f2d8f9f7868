"""What may be claimed from many pools that share tasks and items.

The unit is the *task*, not the pool: pools share tasks and experts, so twelve pools of four tasks
are not twelve samples. Whatever is claimed is a mean over pools of one number for each (a share, a
rank, a difference, a win), and its interval comes from drawing the tasks again. Each pool then
counts as often as its tasks are drawn together, that is by the product of their counts, as pairs do
where their members are drawn again (Owen, 2007, "The pigeonhole bootstrap"), divided by its mean
over drawings, so that large pools count as much as small ones. With the four tasks of a sealed set
the intervals are still about a third too narrow (README.md).

Items are crossed with pools: each task's are drawn again once, for all pools and methods at once. A
hypervolume of resampled items is biased upwards, so intervals are basic ones (the estimate less the
upper and lower errors seen), and of differences, where the bias cancels.

No error is claimed for seeds: those of a pool are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.pools import results
from experiments.pools.pools import Pool, pools
from experiments.pools.reference import LEAST, Reference, references
from experiments.pools.results import HELD_OUT, Front, Key
from hm3rl.objectives.indicators import hypervolume
from hm3rl.objectives.statistics import LEVEL, RESAMPLES, Interval

ITEM_RESAMPLES = 400


@dataclass(frozen=True)
class Shares:
    """Methods on the pools of a set, at one budget.

    Attributes:
        methods: The M methods.
        pools: The P pools that have room and every method's result.
        values: Share s of each, mean over seeds, shape (P, M).
        apart: Pools without room: the experts' hypervolume, the reference's, and the methods'.
        lacking: Pools that lack a result, or a reference.
    """

    methods: tuple[str, ...]
    pools: tuple[Pool, ...]
    values: np.ndarray
    apart: Mapping[str, tuple[Reference, dict[str, float]]]
    lacking: tuple[str, ...]

    @property
    def tasks(self) -> list[tuple[str, ...]]:
        """The tasks of each pool."""
        return [pool.tasks for pool in self.pools]

    def of(self, method: str) -> np.ndarray:
        """Shares of a method, shape (P,)."""
        return np.asarray(self.values[:, self.methods.index(method)])


def shares(
    kind: str, budget: int, methods: Sequence[str] = (), folder: Path = results.RESULTS
) -> Shares:
    """Read the results of a set.

    Args:
        kind: The set.
        budget: Evaluations.
        methods: Methods; empty: all that have a row at this budget.
        folder: Folder of the results.
    """
    every, measured = pools(kind), references(folder)
    volumes: dict[tuple[str, str], list[float]] = {}
    for (key, split), (value, _) in results.known(folder).items():
        if split == HELD_OUT and key.budget == budget and key.pool in every:
            volumes.setdefault((key.pool, key.method), []).append(value)
    names = tuple(methods) or tuple(dict.fromkeys(method for _, method in volumes))
    kept, rows, lacking = [], [], []
    apart: dict[str, tuple[Reference, dict[str, float]]] = {}
    for pool in every.values():
        found = {
            name: float(np.mean(volumes[pool.name, name]))
            for name in names
            if (pool.name, name) in volumes
        }
        measure = measured.get(pool.name)
        if measure is None or len(found) < len(names) or not names:
            lacking.append(pool.name)
        elif measure.room < LEAST:
            apart[pool.name] = (measure, found)
        else:
            kept.append(pool)
            rows.append([measure.share(found[name]) for name in names])
    values = np.array(rows).reshape(len(rows), len(names))
    return Shares(names, tuple(kept), values, apart, tuple(lacking))


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each method on each pool, 1 is best, equals share theirs; shapes (P, M)."""
    return np.asarray(stats.rankdata(-values, axis=1)) if len(values) else values


def wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """1 where ours is better, 1/2 where they are equal, shape (P,).

    Its mean over pools is the probability of improvement.
    """
    return np.asarray((ours > theirs) + 0.5 * (ours == theirs), dtype=np.float64)


def basic(value: float, drawn: np.ndarray, level: float = LEVEL) -> Interval:
    """The basic bootstrap interval of a statistic.

    Args:
        value: The estimate.
        drawn: The statistic of each resample, shape (R,).
        level: Confidence level.
    """
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, 2 * value - float(high), 2 * value - float(low))


def weights_of(counts: np.ndarray, tasks: Sequence[Sequence[str]]) -> np.ndarray:
    """How much each pool counts when tasks are drawn again.

    Args:
        counts: How often each task was drawn, shape (R, T), tasks in the order of their first
            place in `tasks`; each row sums to T.
        tasks: Tasks of each pool.

    Returns:
        Shape (R, P): the product of the counts of a pool's m tasks over its mean T! / (T - m)! /
        T^m.
    """
    names = list(dict.fromkeys(task for own in tasks for task in own))
    total = len(names)
    columns = []
    for own in tasks:
        product = counts[:, [names.index(task) for task in own]].prod(axis=1)
        columns.append(product / (math.perm(total, len(own)) / total ** len(own)))
    return np.stack(columns, axis=1)


def over_tasks(
    values: np.ndarray,
    tasks: Sequence[Sequence[str]],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean over pools, with the basic interval of tasks drawn again.

    Args:
        values: One number for each pool, shape (P,), P > 0.
        tasks: Tasks of each pool.
        resamples: Drawings; those that leave no pool are drawn again.
        level: Confidence level.
        seed: Seed of the drawings.

    Returns:
        Mean and interval; NaN ends with fewer than three tasks or pools.
    """
    mean = float(values.mean())
    total = len({task for own in tasks for task in own})
    if total < 3 or len(values) < 3:
        return Interval(mean, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    while sum(map(len, found)) < resamples:
        counts = rng.multinomial(total, np.full(total, 1 / total), size=resamples)
        weights = weights_of(counts, tasks)
        some = weights.sum(axis=1) > 0
        found.append((weights[some] @ values) / weights[some].sum(axis=1))
    return basic(mean, np.concatenate(found)[:resamples], level)


def without_each(values: np.ndarray, tasks: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean over the pools that lack a task, by task; tasks that all pools have are left out.

    Args:
        values: One number for each pool, shape (P,).
        tasks: Tasks of each pool.
    """
    found = {}
    for task in dict.fromkeys(task for own in tasks for task in own):
        left = np.array([task not in own for own in tasks])
        if left.any():
            found[task] = float(values[left].mean())
    return found


def item_counts(sizes: Mapping[str, int], resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """How often each item is drawn, of each task by itself, shape (items, R).

    Args:
        sizes: Number of items by task.
        resamples: R.
        seed: Seed; a task's drawings do not depend on which other tasks there are.
    """
    found = {}
    for task, size in sizes.items():
        rng = np.random.default_rng([seed, *task.encode()])
        found[task] = rng.multinomial(size, np.full(size, 1 / size), size=resamples).T
    return found


def volumes_over_items(front: Front, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Held-out hypervolumes of a front on resampled items, shape (R,)."""
    points = front.normalised(counts)
    return np.array([hypervolume(points[:, :, r]) for r in range(points.shape[2])])


def shares_over_items(
    found: Shares,
    budget: int,
    resamples: int = ITEM_RESAMPLES,
    folder: Path = results.RESULTS,
) -> np.ndarray:
    """Mean shares when items are drawn again, the same for all pools and methods.

    Experts' and reference's hypervolumes stay as frozen. These means are biased upwards: use their
    differences, in `basic`.

    Args:
        found: The shares.
        budget: Their budget.
        resamples: R.
        folder: Folder of the results.

    Returns:
        Shape (R, M).
    """
    measured = references(folder)
    total = np.zeros((resamples, len(found.methods)))
    for pool in found.pools:
        fronts = results.fronts(pool.name, folder)
        for column, method in enumerate(found.methods):
            own = [front for key, front in fronts.items() if _is(key, method, budget)]
            sizes = {task: row.shape[1] for task, row in own[0].solved.items()}
            counts = item_counts(sizes, resamples)
            volumes = np.mean([volumes_over_items(front, counts) for front in own], axis=0)
            total[:, column] += (volumes - measured[pool.name].experts) / measured[pool.name].room
    return total / len(found.pools)


def _is(key: Key, method: str, budget: int) -> bool:
    return key.method == method and key.budget == budget

"""How should a surrogate see blends? Scores of left-out models, foretold by Gaussian processes.

    python -m experiments.pools.metrics

The models are those that searches have scored on the development pools (`results/searches.zip`);
some are drawn to learn from, beside base and experts, and others are foretold. The processes are
one (`hm3rl.surrogate.blend_gp`) but for the coordinates whose length scales it finds:

`places`    the coefficients of each place: the package's.
`smooth`    components over the depth (`hm3rl.paths.depth`), shorter the higher their frequency.
`norms`     each place by itself, as long before any data as the task vectors are there, after
            AP-BMM's length scales.
`gram`      what the coefficients do to the weights: distances by the experts' Gram matrix in each
            place, one length scale for all.
`mean`      the mean over the depth alone: what a search of whole merges sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.pools.imitation import FILE
from experiments.pools.methods import overrides
from experiments.pools.pools import DEVELOPED, pools
from hm3rl import api
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.paths.depth import depth_basis, frequencies
from hm3rl.run.build import load_pool
from hm3rl.surrogate.blend_gp import NOISE, SCALES, BlendGP
from hm3rl.surrogate.pool_table import PoolTable, read_tables

SIZES, DRAWS, FORETOLD, STEPS = (12, 24, 48, 90), 2, 300, 60


def gram_matrices(pool: str) -> np.ndarray:
    """Inner products of the task vectors in the stem and in each layer, shape (1 + L, N, N)."""
    settings = api.settings(*overrides(pools(DEVELOPED)[pool]))
    loaded = load_pool(settings)
    vectors, size = TaskVectors(loaded.merging()), len(loaded.expert_names)
    found = np.zeros((1 + loaded.num_layers, size, size))
    for name in vectors.mergeable:
        layer = vectors.place(name).layer
        found[0 if layer is None else 1 + layer] += vectors.gram(name)[1:, 1:].numpy()
    return found


class Places(BlendGP):
    """The package's."""

    def __init__(self, table: PoolTable, grams: np.ndarray) -> None:
        super().__init__(len(table.tasks), table.blends.shape[1] - 1, len(table.experts))

    def _scaled(self, blends: Tensor) -> Tensor:
        return super()._scaled(self.seen(blends))

    def seen(self, blends: Tensor) -> Tensor:
        """Coordinates of blends (m, 1 + L, N), of the same shape."""
        return blends


class Smooth(Places):
    """Components over the depth, shorter the higher their frequency."""

    def seen(self, blends: Tensor) -> Tensor:
        """See `Places.seen`."""
        depth = blends.shape[1] - 1
        amplitude = np.sqrt(1.0 + depth) / (1.0 + frequencies(depth))
        basis = torch.as_tensor(amplitude[:, None] * depth_basis(depth))
        return torch.einsum("jr,mrn->mjn", basis, blends)


class Norms(Places):
    """Each place by itself, as long as the task vectors are."""

    def __init__(self, table: PoolTable, grams: np.ndarray) -> None:
        super().__init__(table, grams)
        squared = np.diagonal(grams, axis1=1, axis2=2)
        self._lengths = torch.as_tensor(np.sqrt(squared / squared.mean()))

    def seen(self, blends: Tensor) -> Tensor:
        """See `Places.seen`."""
        return blends * self._lengths


class Gram(Places):
    """Distances by the experts' Gram matrices; experts are told apart by nothing else."""

    def __init__(self, table: PoolTable, grams: np.ndarray) -> None:
        super().__init__(table, grams)
        values, vectors = np.linalg.eigh(grams / np.trace(grams, axis1=1, axis2=2).mean())
        root = np.sqrt(len(table.experts) * values.clip(min=0.0))[:, None, :] * vectors
        self._root = torch.as_tensor(root @ vectors.transpose(0, 2, 1))

    def _scaled(self, blends: Tensor) -> Tensor:
        moved = torch.einsum("rnk,mrk->mrn", self._root, blends).flatten(1)
        return moved[None] * (-self.log_parameters[:, SCALES:].mean(1)).exp()[:, None, None]


class Mean(Places):
    """The mean over the depth alone."""

    def seen(self, blends: Tensor) -> Tensor:
        """See `Places.seen`."""
        means = torch.zeros_like(blends)
        means[:, 0] = blends[:, 1:].mean(dim=1) * np.sqrt(blends.shape[1])
        return means


WAYS: dict[str, Callable[[PoolTable, np.ndarray], BlendGP]] = {
    "places": Places,
    "smooth": Smooth,
    "norms": Norms,
    "gram": Gram,
    "mean": Mean,
}


def foretold(gp: BlendGP, table: PoolTable, size: int, seed: int) -> tuple[float, float]:
    """Learn from some models of a pool and foretell others.

    Args:
        gp: Of the pool's shape, not fitted.
        table: What was scored there, base and experts first.
        size: Models to learn from, beside base and experts.
        seed: Which they are.

    Returns:
        Share of the variance that is not explained, and mean log density of scores.
    """
    sources = 1 + len(table.experts)
    order = sources + np.random.default_rng(seed).permutation(len(table.blends) - sources)
    known = np.concatenate([np.arange(sources), order[:size]])
    asked = order[size : size + FORETOLD]
    gp.fit(table.blends[known], table.vectors[known], STEPS)
    with torch.no_grad():
        found = gp.marginal(torch.as_tensor(table.blends[asked]))
    noise = np.exp(gp.log_parameters[:, NOISE].numpy()) * gp._scale.numpy() ** 2
    variance = found.std.numpy() ** 2 + noise
    squared = (table.vectors[asked] - found.mean.numpy()) ** 2
    density = -0.5 * (np.log(2 * np.pi * variance) + squared / variance)
    missed = squared.mean(axis=0) / table.vectors[asked].var(axis=0)
    return float(missed.mean()), float(density.mean())


def main(words: Sequence[str] | None = None) -> None:
    """Print a table: unexplained share of the variance, and log density, by models known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--pools", nargs="+", help="these alone")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=list(WAYS))
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    tables = [
        table
        for table in read_tables(args.file)[0]
        if (table.pool in args.pools if args.pools else len(table.blends) > 2 * max(args.sizes))
    ]
    grams = {table.pool: gram_matrices(table.pool) for table in tables}
    print(f"{len(tables)} pools: {', '.join(grams)}\n")
    print("| way | " + " | ".join(f"{size} models" for size in args.sizes) + " |")
    print("|---|" + "---:|" * len(args.sizes))
    for name in args.ways:
        cells = []
        for size in args.sizes:
            pairs = [
                foretold(WAYS[name](table, grams[table.pool]), table, size, seed)
                for table in tables
                for seed in range(DRAWS)
            ]
            missed, density = np.mean(pairs, axis=0)
            cells.append(f"{missed:.3f}, {density:.2f}")
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

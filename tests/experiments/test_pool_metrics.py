"""Ways of seeing blends, compared on scores that searches left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.pools import metrics
from experiments.pools.metrics import WAYS, Gram, Norms, foretold, gram_matrices
from hm3rl.surrogate.pool_table import PoolTable

DEPTH, EXPERTS = 4, 2


@pytest.fixture(scope="module")
def grams() -> np.ndarray:
    return gram_matrices("D01")


@pytest.fixture(scope="module")
def table() -> PoolTable:
    """Scores that depend on the mean over the depth, and on one layer."""
    rng = np.random.default_rng(0)
    drawn = rng.random((160, 1 + DEPTH, EXPERTS))
    own = np.stack([np.tile(one, (1 + DEPTH, 1)) for one in ([0, 0], [1, 0], [0, 1])])
    blends = np.concatenate([own, drawn])
    values = blends[:, 1:].mean(axis=1) + 0.3 * (blends[:, 2] - 0.5)
    return PoolTable("P", "", {"a": "", "b": ""}, ("x", "y"), blends, 0.2 + values)


def test_gram_matrices_are_inner_products_of_task_vectors(grams: np.ndarray) -> None:
    assert grams.shape == (9, 2, 2)
    np.testing.assert_allclose(grams, grams.transpose(0, 2, 1))
    assert (np.linalg.eigvalsh(grams) > 0).all()


def test_distances_go_by_the_gram_matrix() -> None:
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(1 + DEPTH, EXPERTS, EXPERTS))
    grams = roots @ roots.transpose(0, 2, 1)
    blends = rng.random((2, 1 + DEPTH, EXPERTS))
    table = PoolTable("P", "", {"a": "", "b": ""}, ("x",), blends, np.ones((2, 1)))
    gp = Gram(table, grams)
    (seen,) = gp._scaled(torch.as_tensor(blends)).numpy()
    one, other = seen.reshape(blends.shape)
    difference = blends[0] - blends[1]
    expected = np.einsum("rn,rnk,rk->r", difference, grams, difference)
    found = ((one - other) ** 2).sum(axis=1)
    np.testing.assert_allclose(found / found.sum(), expected / expected.sum())


def test_norms_are_where_task_vectors_are_long() -> None:
    grams = np.stack([np.eye(EXPERTS) * size for size in (1.0, 4.0, 1.0, 1.0, 1.0)])
    blends = np.ones((3, 1 + DEPTH, EXPERTS))
    gp = Norms(PoolTable("P", "", {"a": "", "b": ""}, ("x",), blends, np.ones((3, 1))), grams)
    seen = gp.seen(torch.as_tensor(blends)).numpy()
    np.testing.assert_allclose(seen[0, 1], 2.0 * seen[0, 0])


@pytest.mark.parametrize("way", WAYS)
def test_every_way_foretells_and_layers_are_seen_by_all_but_the_mean(
    way: str, table: PoolTable
) -> None:
    same = np.stack([np.eye(EXPERTS)] * (1 + DEPTH))
    missed, density = foretold(WAYS[way](table, same), table, size=60, seed=0)
    assert np.isfinite(density)
    assert (0.05 < missed < 0.8) if way == "mean" else missed < 0.05


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    metrics.main(["--pools", "D12", "--sizes", "12", "--ways", "smooth", "mean"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "1 pools: D12" and rows[-2].startswith("| `smooth` | 0.")

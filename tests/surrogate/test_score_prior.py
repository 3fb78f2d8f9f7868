"""What pools teach about pools, where every expert helps its task and hurts the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.surrogate.blend_gp import BlendGP
from hm3rl.surrogate.pool_table import PoolTable, read_tables, source_vectors, write_tables
from hm3rl.surrogate.score_prior import ScorePrior, fit_score_prior, held_out_error

DEPTH = 4


def world(seed: int, experts: int, others: int = 0, rows: int = 40) -> PoolTable:
    """A pool of a family: own expert up to a scale that is best, all others hurt a little."""
    rng = np.random.default_rng(seed)
    tasks = [f"t{i}" for i in rng.permutation(8)[: experts + others]]
    base = rng.uniform(0.1, 0.4, size=len(tasks))
    blends = rng.random((rows, 1 + DEPTH, experts)) * 0.1 + 0.9 * rng.random((rows, 1, experts))
    own = np.concatenate([np.zeros((1, experts)), np.eye(experts)])
    blends = np.concatenate([np.repeat(own[:, None], 1 + DEPTH, axis=1), blends])
    level = blends[:, 1:].mean(axis=1)
    vectors = np.zeros((len(blends), len(tasks)))
    for k in range(len(tasks)):
        mine = level[:, k] if k < experts else np.zeros(len(level))
        hurt = level.sum(axis=1) - mine
        vectors[:, k] = base[k] + (1 - base[k]) * mine * (2 - mine) * (1 - 0.25 * hurt)
    names = {f"e{i}": "0" * 64 for i in range(experts)}
    return PoolTable(f"pool{seed}", "b" * 64, names, tuple(tasks), blends.round(4), vectors)


POOLS = [world(seed, experts=2 + seed % 3, others=seed % 2) for seed in range(12)]


@pytest.fixture(scope="module")
def prior() -> ScorePrior:
    return fit_score_prior(POOLS, seed=0, without={"t0"})


def test_it_foretells_a_task_that_it_never_saw(prior: ScorePrior) -> None:
    missed, spread = held_out_error(prior, POOLS, "t0")
    assert missed < 0.1 * spread


def test_experts_and_tasks_are_sets_of_any_size(prior: ScorePrior) -> None:
    table = world(50, experts=5, others=2)
    blends, sources = torch.as_tensor(table.blends), table.sources
    found = prior.of_pool(sources)(blends)
    assert found.shape == (len(table.blends), 7)
    turned = np.array([3, 0, 4, 1, 2])
    experts = prior.of_pool(sources[[0, *(1 + turned)]])(blends[:, :, turned])
    tasks = prior.of_pool(sources[:, ::-1].copy())(blends)
    torch.testing.assert_close(experts, found)
    torch.testing.assert_close(tasks, found.flip(1))


def test_it_does_not_see_where_in_the_depth_an_expert_is_used(prior: ScorePrior) -> None:
    table = POOLS[0]
    blends = torch.as_tensor(table.blends)
    order = [0, *(1 + np.random.default_rng(0).permutation(DEPTH))]
    pool = prior.of_pool(table.sources)
    torch.testing.assert_close(pool(blends[:, order]), pool(blends))


def test_a_process_with_a_prior_mean_needs_fewer_points(prior: ScorePrior) -> None:
    table = world(60, experts=3)
    known, new = slice(0, 4), slice(4, None)  # base and experts
    prior.squared_error.fill_(0.05**2)
    errors = []
    for mean in (None, prior.of_pool(table.sources)):
        gp = BlendGP(3, DEPTH, 3, mean)
        gp.fit(table.blends[known], table.vectors[known], steps=40)
        with torch.no_grad():
            found = gp.marginal(torch.as_tensor(table.blends[new])).mean.numpy()
        errors.append(float(((found - table.vectors[new]) ** 2).mean()))
    assert errors[1] < 0.3 * errors[0]


def test_a_wrong_prior_mean_is_outgrown() -> None:
    class Wrong:
        error = 0.1

        def __call__(self, blends: torch.Tensor) -> torch.Tensor:
            return 1.0 - blends[:, 1:, :].mean(dim=1)

    table = world(61, experts=2, rows=80)
    known, new = slice(0, 60), slice(60, None)
    gp = BlendGP(2, DEPTH, 2, Wrong())
    gp.fit(table.blends[known], table.vectors[known], steps=60)
    with torch.no_grad():
        found = gp.marginal(torch.as_tensor(table.blends[new]))
    assert ((found.mean.numpy() - table.vectors[new]) ** 2).mean() < 0.02**2
    assert gp.samples(torch.as_tensor(table.blends[new]), 200, np.random.default_rng(0)).mean(
        axis=0
    ) == pytest.approx(found.mean.numpy(), abs=0.05)


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    far = replace(POOLS[1], blends=(9 * POOLS[1].blends).round(4))  # paths.blend_max has no bound
    own = np.concatenate([np.zeros((1, 1, 3)), np.eye(3)[:, None]])
    far.blends[:4] = own
    written = [POOLS[0], far]
    write_tables(tmp_path / "a.zip", written)
    tables, learned = read_tables(tmp_path / "a.zip")
    assert learned == {}
    for one, other in zip(tables, written, strict=True):
        assert one.to_dict() == other.to_dict()
        np.testing.assert_array_equal(one.blends, other.blends)
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)
        np.testing.assert_allclose(one.sources, other.sources, atol=1e-6)
    (tmp_path / "b.zip").write_text("no zip")
    with pytest.raises(InputError, match=r"b\.zip"):
        read_tables(tmp_path / "b.zip")


def test_a_pool_whose_expert_has_no_score_is_no_table_to_learn_from() -> None:
    table = POOLS[0]
    assert source_vectors(table.blends[1:], table.vectors[1:]) is None
    with pytest.raises(InputError, match="base"):
        fit_score_prior(
            [PoolTable("x", "b", table.experts, table.tasks, table.blends[1:], table.vectors[1:])],
            seed=0,
        )

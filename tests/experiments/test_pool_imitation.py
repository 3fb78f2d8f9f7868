"""Pools that are imitated to try settings on."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.pools import imitation
from experiments.pools.settings import DEVELOPMENT
from hm3rl.surrogate.pool_table import read_tables


@pytest.fixture(scope="module")
def pool() -> imitation.Imitation:
    (table,) = [one for one in read_tables(imitation.FILE)[0] if one.pool == "D05"]
    return imitation.Imitation(table)


def test_what_is_committed_is_of_development_pools() -> None:
    for table in read_tables(imitation.FILE)[0]:
        assert set(table.tasks) <= set(DEVELOPMENT) and len(table.blends) > 50
        assert (table.sources[1:].max(axis=0) == 1).all()


def test_it_answers_as_the_pool_did(pool: imitation.Imitation) -> None:
    rows = np.random.default_rng(0).permutation(len(pool.table.blends))[:60]
    answers = pool([pool.space.decode(pool.table.blends[i]) for i in rows])
    error = np.array([one.vector for one in answers]) - pool.table.vectors[rows]
    assert np.sqrt((error**2).mean()) < 0.05 < pool.table.vectors[rows].std()
    again = pool([pool.space.decode(pool.table.blends[i]) for i in rows])
    assert all((a.vector == b.vector).all() for a, b in zip(answers, again, strict=True))


def test_settings_are_tried_on_it(pool: imitation.Imitation) -> None:
    low = imitation.tried(pool, ["agent=none"], 12, seed=0)
    high = imitation.tried(pool, ["agent=none"], 32, seed=0)
    assert 0 < low < high < 0.7

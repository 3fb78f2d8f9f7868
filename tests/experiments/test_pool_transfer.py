"""What the bench's pools teach about each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.pools import transfer
from experiments.pools.settings import DEVELOPMENT, EXPERTS
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.surrogate.pool_table import read_tables


def test_blends_fill_the_cube_and_vary_over_the_depth() -> None:
    space = BlendSpace(("a", "b", "c"), 8)
    blends = transfer.drawn_blends(space, 80, np.random.default_rng(0))
    assert blends.min() >= 0 and blends.max() <= 1
    same = (blends == blends[:, :1]).all(axis=(1, 2))
    assert same.mean() == pytest.approx(0.25, abs=0.1)
    assert blends.mean(axis=(0, 1)) == pytest.approx(np.full(3, 0.45), abs=0.12)


def test_what_is_committed_is_of_development_tasks() -> None:
    tables = read_tables(transfer.FILE)[0]
    assert len(tables) == len(transfer.SEEDS)
    for table in tables:
        assert set(table.tasks) <= set(DEVELOPMENT)
        assert {EXPERTS[name].task for name in table.experts} < set(table.tasks)
        assert np.isfinite(table.vectors).all() and (table.sources[1:].max(axis=0) == 1).all()


def test_collecting_again_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "MODELS_EACH", 3)
    seed = transfer.SEEDS[0]
    again = transfer.collect(seed, tmp_path)
    stored = read_tables(transfer.FILE)[0][0]
    assert again.to_dict() == stored.to_dict()
    count = 1 + len(stored.experts) + 3
    np.testing.assert_array_equal(again.blends, stored.blends[:count])
    # Another processor rounds otherwise: single items may differ.
    np.testing.assert_allclose(again.vectors, stored.vectors[:count], atol=0.05)

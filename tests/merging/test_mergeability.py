"""Facts about task vectors, held against sums over whole tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hm3rl.merging.mergeability import described, mergeability
from hm3rl.merging.references import SCALES, uniform_blends
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.pool import ModelPool


class Pool:
    """A base of zeros and ones, and experts made by hand."""

    base_name, num_layers = "base", 2

    def __init__(self, **experts: list[list[float]]) -> None:
        self.expert_names = tuple(experts)
        base = [[2.0, 0.0, 0.0, 0.0]] * 3
        self._rows = {"base": base, **experts}

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        base = torch.tensor(self._rows["base"])
        rows = torch.tensor(self._rows[name]) + (base if name != "base" else 0)
        return {
            "model.embed_tokens.weight": rows[0],
            "model.layers.0.mlp.up_proj.weight": rows[1],
            "model.layers.1.mlp.up_proj.weight": rows[2],
        }


STILL = [0.0, 0.0, 0.0, 0.0]


def test_sizes_cosines_and_conflicts_of_each_layer() -> None:
    pool = Pool(
        a=[STILL, [1, 1, 0, 0], [3, 4, 0, 0]],
        b=[STILL, [1, -1, 0, 5], [3, 4, 0, 0]],
    )
    found = mergeability(TaskVectors(pool))
    assert found.places == ("stem", "0", "1")
    np.testing.assert_allclose(found.sizes[:, 0], [0, np.sqrt(2) / 2, 5 / 2])
    assert found.cosines[0, 0, 1] == found.conflicts[0, 0, 1] == 0.0  # nothing moved there
    np.testing.assert_allclose(found.cosines[1:, 0, 1], [0.0, 1.0], atol=1e-12)
    # Of the entries that both change: one of two, and none of two.
    np.testing.assert_allclose(found.conflicts[:, 0, 1], [0.0, 0.5, 0.0])
    assert found.whole_conflicts[0, 1] == 0.25
    assert found.whole_cosines[0, 1] == pytest.approx(25 / np.sqrt(27 * 52))
    text = described(found)["a and b"]
    assert "25% of the entries that both change" in text and "most in layer 0 (50%)" in text


def test_of_a_pool_they_are_those_of_its_tensors(tiny_pool: ModelPool) -> None:
    vectors = TaskVectors(tiny_pool)
    found = mergeability(vectors)
    names = [n for n in vectors.mergeable if vectors.place(n).layer == 1]
    flat = torch.cat([vectors.deltas(n).flatten(1) for n in names], dim=1).double()
    expected = torch.nn.functional.cosine_similarity(flat[0], flat[2], dim=0)
    assert found.cosines[2, 0, 2] == pytest.approx(float(expected), abs=1e-6)
    conflict = (flat[0] * flat[2] < 0).sum() / ((flat[0] != 0) & (flat[2] != 0)).sum()
    assert found.conflicts[2, 0, 2] == pytest.approx(float(conflict))
    assert 0.4 < found.whole_conflicts[0, 2] < 0.6  # noise of its own made each


def test_uniform_blends_have_equal_shares_at_each_scale() -> None:
    blends = uniform_blends(("a", "b"))
    assert list(blends) == ["uniform 0.3", "uniform 0.5", "uniform 1"]
    for recipe, scale in zip(blends.values(), SCALES, strict=True):
        assert dict(recipe.weights) == {"a": 0.5, "b": 0.5} and recipe.scale == scale

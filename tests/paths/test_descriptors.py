"""Layer descriptors: shape, meaning at known members, independence of names and order."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths import descriptors
from hm3rl.paths.descriptors import GROUPS, layer_descriptors
from hm3rl.paths.members import MemberSet


@pytest.fixture(scope="module")
def members(tiny_pool) -> MemberSet:
    return MemberSet(tiny_pool)


def split(row: np.ndarray, experts: int = 3) -> list[np.ndarray]:
    """Cut a descriptor into its groups (norm, cosines, conflict)."""
    width = experts + 2
    return [row[i * width : (i + 1) * width] for i in range(len(GROUPS))]


def test_shape_and_cache(members):
    features = layer_descriptors(members, ["a", "b"], dim=4)
    assert features.shape == (2, 3, 3 * 5 + 4)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(layer_descriptors(members, ["b", "a"], dim=4)[1], features[0])


def test_base_has_no_task_vector(members):
    np.testing.assert_array_equal(layer_descriptors(members, ["base"]), 0.0)


def test_expert_has_cosine_one_with_itself_and_norm_of_order_one(members):
    features = layer_descriptors(members, ["b"])[0]
    for row in features:
        for norm, *cosines, conflict in split(row):
            assert 0.5 < norm < 2.0
            assert cosines[1] == pytest.approx(1.0, abs=1e-4)
            assert 0.0 <= conflict < 0.5


def test_doubling_a_merge_doubles_norm_and_projection_only(members):
    once = MergeRecipe.of("task_arithmetic", {"a": 0.5, "b": 0.5})
    twice = MergeRecipe.of("task_arithmetic", {"a": 0.5, "b": 0.5}, scale=2.0)
    one, two = layer_descriptors(members, [members.add(once), members.add(twice)], dim=6)
    for row, double in zip(one, two, strict=True):
        for ours, theirs in zip(split(row), split(double), strict=True):
            np.testing.assert_allclose(theirs[0], 2 * ours[0], rtol=1e-3)
            np.testing.assert_allclose(theirs[1:], ours[1:], atol=1e-3)
        np.testing.assert_allclose(double[-6:], 2 * row[-6:], rtol=1e-2, atol=1e-3)


def test_seed_changes_the_projection_only(members):
    first = layer_descriptors(members, ["a"], dim=5, seed=0)
    second = layer_descriptors(members, ["a"], dim=5, seed=1)
    np.testing.assert_array_equal(first[..., :-5], second[..., :-5])
    assert not np.allclose(first[..., -5:], second[..., -5:])


def test_members_added_later_do_not_change_the_others(tiny_pool, members):
    fresh = MemberSet(tiny_pool)
    fresh.add(MergeRecipe.of("linear", {"c": 1.0}))
    np.testing.assert_array_equal(
        layer_descriptors(fresh, ["a"]), layer_descriptors(members, ["a"])
    )


def test_nothing_kept_of_the_experts_gives_the_same(
    tiny_pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tiny_pool.names
    kept = layer_descriptors(MemberSet(tiny_pool, include_base=True), names)
    monkeypatch.setattr(descriptors, "KEPT_BYTES", 0)
    assert np.array_equal(layer_descriptors(MemberSet(tiny_pool, include_base=True), names), kept)
    assert kept.any()

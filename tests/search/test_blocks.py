"""Depth-wise blocks are legal paths, and the forest finds what is better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.limits import PathLimits
from hm3rl.search.blocks import Blocks, BlockSpace
from tests.envs.test_cursor import space

LIMITS = [PathLimits(1, 5), PathLimits(3, 3), PathLimits(3, 3, actions="same_depth", stem="b")]


def test_blocks_read_depth_by_depth_in_their_order():
    blocks = BlockSpace(space())
    row = blocks.row(Blocks(1, ((1, 0), (), (0,))))
    assert row is not None
    assert blocks.space.decode(row) == LayerPath.parse("b | b[0] + a[0] + a[2]")
    assert blocks.row(Blocks(0, ((0, 1), (0, 1), (0, 1)))) is None  # six layers, five are legal
    whole = blocks.row(blocks.whole(0))
    assert whole is not None and blocks.space.decode(whole) == LayerPath.whole("a", 3)


@pytest.mark.parametrize("limits", [LIMITS[0], LIMITS[2]])
def test_features_are_of_recipes_not_of_members(limits: PathLimits):
    offered = space(limits)
    context = np.array([[1.0, 0.0], [0.25, 0.75]], np.float32)
    blocks = BlockSpace(replace(offered, context=context))
    found = blocks.features(Blocks(1, ((0,), (1,), (0,))))
    rows = [[1, 1, 1], [1, 0], [0.25, 0.75], [1, 0]]
    firsts = [] if offered.same_depth else rows[1:]
    assert found.tolist() == [*np.concatenate([*rows, *firsts]), 0.25, 0.75]
    # A member of the same recipe looks the same, and so does a merge that is no member.
    alike = BlockSpace(replace(offered, context=context[[1, 1]]))
    same = alike.features(Blocks(0, ((1,), (0,), (1,))))
    assert same.tolist() == alike.whole_features(context[1]).tolist()
    if not offered.same_depth:
        several = blocks.features(Blocks(0, ((1, 0), (), (0,)))).tolist()
        assert several[:5] == [2, 0, 1, 0.625, 0.375] and several[9:13] == [0.25, 0.75, 0, 0]


@pytest.mark.parametrize("limits", LIMITS)
def test_draws_and_neighbours_are_legal_and_neighbours_differ_by_one_change(limits: PathLimits):
    blocks, rng = BlockSpace(space(limits)), np.random.default_rng(0)
    lengths = set()
    for _ in range(60):
        point = blocks.draw(rng)
        assert point is not None and blocks.row(point) is not None
        near = blocks.vary(point, rng)
        assert near != point and blocks.row(near) is not None
        changed = [a != b for a, b in zip(point.members, near.members, strict=True)]
        assert sum(changed) + (point.stem != near.stem) == 1
        lengths.add(sum(map(len, point.members)))
    assert lengths == set(range(limits.min_length, limits.max_length + 1))


def test_the_forest_expects_most_where_the_utility_is_higher():
    pytest.importorskip("sklearn")
    from hm3rl.search.forest import Forest

    rng = np.random.default_rng(0)
    features = rng.integers(0, 2, (80, 6)).astype(float)
    vectors = features[:, :2] * 0.5 + 0.1 * features[:, 2:3]
    forest = Forest(features[:60], vectors[:60], seed=0)
    preferences = np.array([[0.9, 0.1], [0.1, 0.9]])
    worth = forest.improvement(features[60:], preferences)
    assert worth.shape == (2, 20) and (worth >= 0).all()
    for k in range(2):
        likely = features[60:, k] == 1
        assert worth[k, likely].mean() > worth[k, ~likely].mean()
    again = Forest(features[:60], vectors[:60], seed=0).improvement(features[60:], preferences)
    assert (again == worth).all()

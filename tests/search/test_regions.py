"""Regions and their scores, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.search import regions
from hm3rl.search.regions import Region, attraction, divide, exploration

BOX = np.zeros(2), np.ones(2)


def test_leaves_split_where_points_vary_most_at_the_median():
    points = np.array([[0.0, 0.5], [0.1, 0.4], [0.9, 0.1], [1.0, 0.9]])
    left, low, high = divide(points, *BOX, most=2)[0:1] + divide(points, *BOX, most=1)[-2:]
    assert left.members.tolist() == [0, 1]
    assert left.upper.tolist() == [0.5, 1.0]  # half-way between 0.1 and 0.9
    # On the right y varies more.
    assert (low.members.tolist(), high.members.tolist()) == ([2], [3])
    assert (low.lower.tolist(), low.upper.tolist()) == ([0.5, 0.0], [1.0, 0.5])
    assert (high.lower.tolist(), high.upper.tolist()) == ([0.5, 0.5], [1.0, 1.0])


def test_the_leaves_are_the_whole_box_and_hold_every_point_once():
    rng = np.random.default_rng(0)
    points = rng.random((60, 3))
    points[:20] = points[:20].round()  # sources lie in corners
    leaves = divide(points, np.zeros(3), np.ones(3), most=5)
    assert sorted(np.concatenate([leaf.members for leaf in leaves])) == list(range(60))
    assert sum(np.prod(leaf.upper - leaf.lower) for leaf in leaves) == pytest.approx(1.0)
    for leaf in leaves:
        inside = points[leaf.members]
        assert ((inside >= leaf.lower) & (inside <= leaf.upper)).all()
        assert len(inside) <= 5 or (inside == inside[0]).all()


def test_most_points_at_the_upper_end_are_parted_from_the_others():
    points = np.array([[0.2], [0.4], [1.0], [1.0], [1.0]])
    first, second = divide(points, np.zeros(1), np.ones(1), most=3)
    assert (first.members.tolist(), second.members.tolist()) == ([0, 1], [2, 3, 4])
    assert first.upper == second.lower == [0.4]


def test_equal_points_stay_one_leaf():
    assert len(divide(np.full((9, 2), 0.5), *BOX, most=5)) == 1


# Two objectives between their extremes; leaf A has the first two points, B the third.
SCORES = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
A = Region(np.array([0, 1]), np.array([0.0, 0.0]), np.array([0.25, 1.0]))
B = Region(np.array([2]), np.array([0.25, 0.0]), np.array([1.0, 1.0]))


def test_the_gain_of_a_leaf_is_the_hypervolume_only_its_points_have():
    scores = np.array([[0.5, 0.5], [1.0, 0.25], [0.25, 1.0]])
    # All: 0.25 + 0.125 + 0.125 = 0.5; without the first two 0.25; without the third 0.375.
    assert regions.gains([A, B], scores).tolist() == pytest.approx([0.25, 0.125])


def test_the_size_of_a_leaf_is_the_root_of_its_share():
    assert regions.sizes([A, B], *BOX).tolist() == pytest.approx([0.25**0.5, 0.75**0.5])
    wide = np.array([4.0, 1.0])
    stretched = [Region(leaf.members, leaf.lower * wide, leaf.upper * wide) for leaf in (A, B)]
    assert regions.sizes(stretched, BOX[0], wide).tolist() == pytest.approx([0.5, 0.75**0.5])


def test_ignorance_is_the_bound_of_the_paper():
    # Single points dominate 0, 0.25 and 0: the variance in A is 0.125^2, of one point 0.01.
    logs = np.log(3 / 2 * 2), np.log(3 / 2 * 1)
    expected = [
        np.sqrt(2 * 0.125**2 * logs[0] / 2) + logs[0] / 2,
        np.sqrt(2 * 0.01 * logs[1] / 1) + logs[1] / 1,
    ]
    assert regions.ignorance([A, B], SCORES).tolist() == pytest.approx(expected)


def test_ignorance_is_never_below_0():
    alone = [Region(np.array([i]), *BOX) for i in range(3)]
    assert regions.ignorance(alone, SCORES).tolist() == [0, 0, 0]  # ln(3 / 3 * 1)


def test_exploration_falls_by_a_cosine_over_a_hundred_rounds():
    assert exploration(0) == pytest.approx(1.0)
    assert exploration(50) == pytest.approx(0.505)
    assert exploration(100) == exploration(1000) == pytest.approx(0.01)


def test_leaves_attract_by_the_sum_of_three_softmaxes():
    gains, sizes = regions.gains([A, B], SCORES), regions.sizes([A, B], *BOX)
    unknown = regions.ignorance([A, B], SCORES)

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.exp(values) / np.exp(values).sum()

    expected = softmax(gains) + 0.505 * (softmax(sizes) + softmax(unknown)) / 2
    found = attraction([A, B], SCORES * 3 - 1, *BOX, step=50)  # the scale does not matter
    assert found.tolist() == pytest.approx((expected / expected.sum()).tolist())
    assert found.sum() == pytest.approx(1.0)


def test_an_objective_in_which_all_are_alike_does_not_hide_the_others():
    scores = np.array([[0.3, 1.0], [0.3, 0.5], [0.3, 0.0]])
    first, rest = attraction(
        [Region(np.array([0]), *BOX), Region(np.array([1, 2]), *BOX)], scores, *BOX, step=100
    )
    assert first > rest

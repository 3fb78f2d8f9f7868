"""Trust regions: where they lie, and how they learn."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.pools.regions import FIRST, LARGEST, Regions

VECTORS = np.array([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]])
SCORES = np.array([[0.9, 0.1], [0.6, 0.6], [0.2, 0.3]])


def test_boxes_lie_around_the_points_that_add_most() -> None:
    regions = Regions(2)
    (first, second) = regions.around(VECTORS, SCORES)
    assert first[0] == pytest.approx(0.5 - FIRST / 2) and first[1] == pytest.approx(0.5 + FIRST / 2)
    assert second[0] == pytest.approx(0.0) and second[1] == pytest.approx(0.1 + FIRST / 2)
    assert Regions(0).around(VECTORS, SCORES) == []
    assert len(Regions(5).around(VECTORS, SCORES)) == 3


def test_a_box_grows_where_the_front_did_and_shrinks_elsewhere() -> None:
    regions = Regions(2)
    regions.sides[:] = 0.2
    regions.around(VECTORS, SCORES)
    # A point of the front in the first box, a dominated one in the second.
    vectors = np.concatenate([VECTORS, [[0.55, 0.55], [0.12, 0.12]]])
    scores = np.concatenate([SCORES, [[0.65, 0.65], [0.5, 0.1]]])
    regions.learn(vectors, scores, before=3)
    assert regions.sides == pytest.approx([0.4, 0.1])
    regions.learn(vectors, scores, before=5)
    assert regions.sides == pytest.approx([0.2, 0.05])
    regions.learn(vectors, scores, before=5)
    assert regions.sides == pytest.approx([0.1, FIRST])
    regions.sides[:] = LARGEST
    regions.learn(vectors, scores, before=3)
    assert regions.sides[0] == LARGEST

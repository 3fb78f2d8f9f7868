from __future__ import annotations

import numpy as np
import pytest

from hm3rl.objectives.scalarisation import scalarise, tchebycheff, weighted_sum

# A concave front: the middle point lies below the line between the corners.
CONCAVE = np.array([[1.0, 0.0], [0.4, 0.4], [0.0, 1.0]])


def test_weighted_sum_by_hand():
    assert weighted_sum(np.array([0.5, 1.0]), np.array([0.25, 0.75])) == pytest.approx(0.875)


def test_no_weighted_sum_prefers_the_middle_of_a_concave_front_and_tchebycheff_does():
    preferences = np.linspace(0, 1, 101)[:, None] * [1, -1] + [0, 1]
    linear = {int(weighted_sum(CONCAVE, p).argmax()) for p in preferences}
    chebyshev = {int(tchebycheff(CONCAVE, p).argmax()) for p in preferences}
    assert linear == {0, 2}
    assert chebyshev == {0, 1, 2}


def test_tchebycheff_does_not_punish_a_candidate_above_the_best_expert():
    # With |f - z*| and z* = 1 the second candidate would lose to the first.
    half = np.array([0.5, 0.5])
    assert tchebycheff(np.array([1.3, 1.3]), half) > tchebycheff(np.array([1.0, 1.0]), half)


def test_augmentation_separates_a_weakly_dominated_candidate():
    half = np.array([0.5, 0.5])
    better, worse = np.array([0.9, 0.5]), np.array([0.6, 0.5])
    assert tchebycheff(better, half) > tchebycheff(worse, half)
    assert tchebycheff(better, half, rho=0.0) == tchebycheff(worse, half, rho=0.0)


def test_shapes_broadcast():
    scores, preferences = np.ones((5, 1, 3)), np.full((1, 4, 3), 1 / 3)
    assert scalarise(scores, preferences, "tchebycheff").shape == (5, 4)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="median"):
        scalarise(np.ones(3), np.ones(3) / 3, "median")  # type: ignore[arg-type]

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

amortised = pytest.importorskip("hm3rl.search.competitors.map")

MIDDLES = np.array([[0.8, 0.1], [0.2, 0.7]])


def bumps(vectors: np.ndarray) -> np.ndarray:
    """Two metrics whose logits are quadratics with their tops at `MIDDLES`."""
    squares = ((vectors[:, None, :] - MIDDLES[None]) ** 2).sum(-1)
    return expit(2 - 6 * squares)


def test_features_are_all_products_of_degree_two_at_most():
    features = amortised.quadratic_features(np.array([[2.0, 3.0]]))
    assert features.tolist() == [[1, 2, 3, 4, 6, 9]]


def test_a_quadratic_is_recovered_and_its_front_lies_between_the_tops():
    rng = np.random.default_rng(0)
    vectors = rng.random((12, 2))
    surrogate = amortised.QuadraticSurrogate(vectors, bumps(vectors))
    unseen = rng.random((50, 2))
    assert surrogate(unseen) == pytest.approx(bumps(unseen), abs=1e-3)
    encoding = amortised.CoefficientEncoding(("a", "b"), 4, largest=1.0)
    front = surrogate.front(encoding, seed=0)
    assert len(front) > 10 and (surrogate.front(encoding, seed=0) == front).all()
    along = (front - MIDDLES[0]) @ (MIDDLES[1] - MIDDLES[0])
    beside = (front - MIDDLES[0]) @ np.array([0.6, 0.6])
    # On the segment between the two tops, from end to end.
    assert np.abs(beside).max() < 0.05
    assert along.min() < 0.05 < 0.6 < along.max() < 0.8


def test_fewer_points_than_unknowns_still_give_a_surrogate():
    vectors = np.random.default_rng(0).random((3, 2))
    surrogate = amortised.QuadraticSurrogate(vectors, bumps(vectors))
    assert surrogate(vectors) == pytest.approx(bumps(vectors), abs=1e-6)


def test_coefficients_are_those_of_task_arithmetic_and_zero_is_the_base():
    encoding = amortised.CoefficientEncoding(("a", "b"), 4, largest=1.5)
    (recipe,) = encoding.decode(np.array([1.5, 0.25])).recipes
    assert dict(recipe.weights) == {"a": 1.5, "b": 0.25} and recipe.normalise is False
    assert encoding.decode(np.zeros(2)).recipes[0].weights == ()
    assert encoding.sample(200, np.random.default_rng(0)).max() > 1.4

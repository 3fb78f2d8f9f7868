from __future__ import annotations

import numpy as np
import pytest

from hm3rl.config.searchers import MmMoSizes
from hm3rl.objectives.indicators import hypervolume

bayesian = pytest.importorskip("hm3rl.search.bayesian")

QUICK = MmMoSizes(samples=8, restarts=1, steps=8)


def spheres(vectors: np.ndarray, objectives: int) -> np.ndarray:
    """One minus the distance from each of as many corners, in [-1, 1]."""
    corners = np.eye(objectives)
    return 1.0 - np.linalg.norm(vectors[:, None, :objectives] - corners, axis=2) / np.sqrt(2)


@pytest.mark.parametrize("objectives", [3, 4, 5])
def test_proposals_beat_vectors_at_random(objectives: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.random((16, objectives + 1))
    outcomes = spheres(vectors, objectives)
    surrogate = bayesian.Surrogate(vectors, outcomes, np.zeros(objectives), QUICK, seed=1)
    proposals = surrogate.propose(4)
    assert len(np.unique(proposals.round(3), axis=0)) == 4

    def reached(new: np.ndarray) -> float:
        return hypervolume(np.concatenate([outcomes, spheres(new, objectives)]))

    drawn = [reached(rng.random(proposals.shape)) for _ in range(50)]
    assert reached(proposals) > np.quantile(drawn, 0.9)


def test_boxes_take_turns() -> None:
    vectors = np.random.default_rng(0).random((12, 3))
    surrogate = bayesian.Surrogate(vectors, spheres(vectors, 2), np.zeros(2), QUICK, seed=1)
    boxes = [(np.full(3, 0.1), np.full(3, 0.2)), (np.full(3, 0.7), np.full(3, 0.9))]
    proposals = surrogate.propose(3, boxes)
    for vector, (low, high) in zip(proposals, [*boxes, boxes[0]], strict=True):
        assert (low <= vector).all() and (vector <= high).all()


def test_a_sparse_prior_finds_what_matters() -> None:
    vectors = np.random.default_rng(0).random((30, 12))
    outcomes = np.stack([np.sin(6 * vectors[:, 0]), np.cos(5 * vectors[:, 0])], axis=1)
    surrogate = bayesian.Surrogate(vectors, outcomes, -np.ones(2), QUICK, seed=1, sparse=True)
    assert surrogate.fitted
    scales = surrogate.model.covar_module.base_kernel.lengthscale.detach().numpy()[:, 0]
    assert (scales[:, 0] * 5 < np.median(scales[:, 1:], axis=1)).all()

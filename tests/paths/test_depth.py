from __future__ import annotations

import numpy as np

from hm3rl.paths.depth import depth_basis


def test_the_basis_tells_all_places_apart_and_begins_with_the_mean() -> None:
    basis = depth_basis(6)
    assert np.linalg.matrix_rank(basis) == 7
    np.testing.assert_allclose(basis @ np.ones(7), [1.0, *[0.0] * 6], atol=1e-12)

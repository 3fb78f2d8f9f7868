from __future__ import annotations

import numpy as np
import pytest

from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath

SPACE = BlendSpace(("code", "math"), depth=2)


def test_blends_in_the_models_order_come_back() -> None:
    blends = np.array([[0.0, 1.0], [0.25, 0.5], [0.0, 0.0]])
    path = SPACE.decode(blends)
    assert path == LayerPath.parse("math | {code: 0.25, math: 0.5}[0] + base[1]")
    np.testing.assert_array_equal(SPACE.encode(Candidate(path)), blends)


def test_layers_may_be_named() -> None:
    blends = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.0], [0.0, 0.0]])
    path = SPACE.decode(blends, [1, 0, 1])
    assert path == LayerPath.parse("math | math[1] + {code: 0.5}[0] + base[1]")
    assert SPACE.encode(Candidate(path)) is None


def test_every_layer_needs_a_blend() -> None:
    with pytest.raises(ValueError):
        SPACE.decode(np.zeros((2, 2)), [0, 1])

"""A smooth basis over the depth of a model: what is alike in all layers, and what differs.

Policies and variations move blends in it, the mean farther than what differs from layer to layer.
"""

from __future__ import annotations

import numpy as np


def frequencies(depth: int) -> np.ndarray:
    """Frequencies of the components of `depth_basis`, shape (1 + L,); the stem's counts as 1."""
    return np.concatenate([[0.0, 1.0], np.arange(1.0, depth)])


def depth_basis(depth: int) -> np.ndarray:
    """A smooth basis over the stem and the layers.

    Args:
        depth: L.

    Returns:
        Shape (1 + L, 1 + L): rows are components, columns places (the stem first). Row 0 is the
        mean over the layers, row 1 the stem less that mean, the others cosines over the layers of
        rising frequency, scaled so that a component's size is its root mean square over the layers.
    """
    layers = (np.arange(depth) + 0.5) / depth
    basis = np.zeros((1 + depth, 1 + depth))
    basis[0, 1:] = 1.0 / depth
    basis[1] = -basis[0]
    basis[1, 0] = 1.0
    for f in range(1, depth):
        basis[1 + f, 1:] = np.sqrt(2.0) * np.cos(np.pi * f * layers) / depth
    return basis

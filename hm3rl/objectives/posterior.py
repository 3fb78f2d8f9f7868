"""What is left of noisy scores once a surrogate has seen them all: posterior means and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hm3rl.objectives.archive import Archive


@dataclass(frozen=True)
class Posterior:
    """Expected scores of evaluated models, given the scores of all of them.

    The best of many noisy scores is too good, that of posterior means hardly: a score that stands
    out from those of similar models is taken for luck as far as the noise explains it.

    Attributes:
        means: Posterior means of the noise-free scores by key, in the units of the scores; its
            front and `best` go by them.
        errors: Their posterior standard deviations by key, each of shape (K,). They are of
            scores on these items; that others would give other scores is not in them.
    """

    means: Archive
    errors: Mapping[str, np.ndarray]

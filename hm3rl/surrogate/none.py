"""`surrogate=none`: nothing predicts scores, so that what decides is the policy alone (HM3's own).

`PathSurrogate` never fits it and is never ready; whoever asks it all the same is told so.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import torch

from hm3rl.config.agents import SurrogateSettings


class NoRegression:
    """A regressor that refuses to be asked.

    Args:
        outputs: O.
        depths: Depth of each recipe feature.
        options: None of its own.
    """

    def __init__(self, outputs: int, depths: np.ndarray, options: SurrogateSettings) -> None:
        self.log_parameters = torch.zeros(0, dtype=torch.float64)

    def _refuse(self, *args: Any) -> NoReturn:
        raise RuntimeError("surrogate=none: there is nothing to fit and nothing to ask")

    fit = mean = marginal = posterior = _refuse

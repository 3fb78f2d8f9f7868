"""The policy over blends: from a preference to the coefficients of every place.

Pareto set learning (Lin, Yang, Zhang, Zhang, NeurIPS 2022, arXiv 2210.08495): the surrogate is
differentiable in the blends, so the policy climbs the expected utility under all preferences at
once, by its gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from hm3rl.paths.depth import depth_basis, frequencies

MARGIN = 0.02
"""A coefficient to start from lies so far inside its range, where the sigmoid has a slope."""


LIMIT = 5.0
"""Logits are bent to stay inside: a sigmoid that is saturated has no gradient to come back by."""


def start_logits(blend: np.ndarray, largest: float) -> Tensor:
    """Logits, before they are bent, of a blend with coefficients in [0, largest]."""
    share = torch.as_tensor(blend / largest).clamp(MARGIN, 1 - MARGIN)
    return LIMIT * torch.atanh(torch.logit(share) / LIMIT)


class PolicyOverBlends(nn.Module):
    """What policies over blends share: what they answer before any training.

    Attributes:
        largest: Coefficients lie in [0, largest].
        start: Logits of one blend for all preferences, shape (1 + L, N).
        before: Another policy's logits of shape (m, 1 + L, N), in place of `start`.

    Args:
        depth: L.
        experts: N.
        largest: Coefficients lie in [0, largest].
    """

    start: Tensor

    def __init__(self, depth: int, experts: int, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.before: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("start", torch.zeros(1 + depth, experts))

    def begin_at(self, blend: np.ndarray) -> None:
        """Before any training: answer every preference with this blend of shape (1 + L, N)."""
        self.start.copy_(start_logits(blend, self.largest))

    def begin_with(self, logits: Callable[[Tensor], Tensor]) -> None:
        """Before any training: answer as another policy does, whose logits are (m, 1 + L, N)."""
        self.before = logits

    def _first(self, preferences: Tensor) -> Tensor:
        """Logits before any training, shape (1 + L, N) or (m, 1 + L, N)."""
        return self.start if self.before is None else self.before(preferences)


class BlendPolicy(PolicyOverBlends):
    """A perceptron from a preference to blends.

    Its outputs are components of logits in the smooth basis over the depth, with amplitudes that
    fall with the frequency: early steps move the whole model, later ones its layers. They are added
    to what another policy answers, or to one blend for all preferences.

    Args:
        objectives: K.
        depth: L.
        experts: N.
        largest: Coefficients lie in [0, largest].
        hidden: Width of the two layers.
    """

    def __init__(
        self, objectives: int, depth: int, experts: int, largest: float, hidden: int
    ) -> None:
        super().__init__(depth, experts, largest)
        self.body = nn.Sequential(
            nn.Linear(objectives, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.head = nn.Linear(hidden, (1 + depth) * experts)
        self._spread = torch.as_tensor(np.linalg.inv(depth_basis(depth)) / (1 + frequencies(depth)))
        self.double()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, preferences: Tensor) -> Tensor:
        """Blends for preferences (m, K), shape (m, 1 + L, N)."""
        components = self.head(self.body(preferences)).unflatten(1, self.start.shape)
        logits = self._first(preferences) + torch.einsum("rj,mjn->mrn", self._spread, components)
        return self.largest * torch.sigmoid(LIMIT * torch.tanh(logits / LIMIT))

"""A policy that builds a model layer by layer: autoregressive over blends.

It goes through the places of a model, the stem first, and at each chooses by how much the logits of
the blend change from the place before, knowing the preference and the blends so far. Its mean is
trained by pathwise gradients through the surrogate, like the perceptron of `blend_policy.py`; as a
Gaussian policy it walks the environment `BlendPathEnv`, and learns from rollouts by PPO.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hm3rl.agents.blend_policy import LIMIT, PolicyOverBlends

FIRST_DEVIATION, DEVIATION = 0.5, 0.15
"""Standard deviations of a rollout's logits at the first place, and of their changes at others."""


class Rollout(NamedTuple):
    """Episodes of one model each.

    Attributes:
        blends: Shape (m, 1 + L, N).
        steps: What was drawn: changes of logits, shape (m, 1 + L, N).
        log_prob: Of what was drawn at each place, shape (m, 1 + L).
    """

    blends: Tensor
    steps: Tensor
    log_prob: Tensor


class LayerPolicy(PolicyOverBlends):
    """From a preference to blends, one place after the other.

    Args:
        objectives: K.
        depth: L.
        experts: N.
        largest: Coefficients lie in [0, largest].
        hidden: Width of the recurrent layer.
    """

    def __init__(
        self, objectives: int, depth: int, experts: int, largest: float, hidden: int
    ) -> None:
        super().__init__(depth, experts, largest)
        self.cell = nn.GRUCell(objectives + experts + 2, hidden)
        self.head = nn.Linear(hidden, experts)
        deviations = torch.full((1 + depth, 1), DEVIATION)
        deviations[0] = FIRST_DEVIATION
        self.log_std = nn.Parameter(deviations.log())
        self.double()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, preferences: Tensor) -> Tensor:
        """Mean answers to preferences (m, K), shape (m, 1 + L, N)."""
        nothing = preferences.new_zeros(len(preferences), 0, self.start.shape[1])
        return self._walk(preferences, nothing)[0]

    def rollout(self, preferences: Tensor) -> Rollout:
        """Draw a model for each preference (m, K)."""
        noise = torch.randn(len(preferences), *self.start.shape, dtype=torch.float64)
        with torch.no_grad():
            blends, means, steps = self._walk(preferences, noise, drawn=True)
            return Rollout(blends, steps, self._density(means, steps))

    def log_prob(self, preferences: Tensor, steps: Tensor) -> Tensor:
        """Log densities of what was drawn, shape (m, 1 + L); arguments as in `Rollout`."""
        _, means, _ = self._walk(preferences, steps)
        return self._density(means, steps)

    def completed(self, preferences: Tensor, steps: Tensor) -> Tensor:
        """Rollouts up to a place, and mean answers from there on.

        Args:
            preferences: Shape (m, K).
            steps: Those of the places before, shape (m, t, N).

        Returns:
            Blends, shape (m, 1 + L, N).
        """
        return self._walk(preferences, steps)[0]

    def _walk(
        self, preferences: Tensor, given: Tensor, drawn: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Blends, means and steps of all places, each of shape (m, 1 + L, N).

        `given` are the steps of the first places, or with `drawn` standard normal noise.
        """
        places, experts = self.start.shape
        hidden = preferences.new_zeros(len(preferences), self.cell.hidden_size)
        before = preferences.new_zeros(len(preferences), experts)
        start = self._first(preferences)
        offset = before
        blends: list[Tensor] = []
        means: list[Tensor] = []
        steps: list[Tensor] = []
        for place in range(places):
            where = preferences.new_tensor([place == 0, place / (places - 1)])
            told = [preferences, before, where.expand(len(preferences), 2)]
            hidden = self.cell(torch.cat(told, dim=1), hidden)
            mean = self.head(hidden)
            step = mean if place >= given.shape[1] else given[:, place]
            if drawn:
                step = mean + self.log_std[place].exp() * step
            offset = offset + step
            logits = start[..., place, :] + offset
            before = torch.sigmoid(LIMIT * torch.tanh(logits / LIMIT))
            for into, one in ((blends, self.largest * before), (means, mean), (steps, step)):
                into.append(one)
        return torch.stack(blends, 1), torch.stack(means, 1), torch.stack(steps, 1)

    def _density(self, means: Tensor, steps: Tensor) -> Tensor:
        drawn = torch.distributions.Normal(means, self.log_std.exp().expand_as(means))
        return drawn.log_prob(steps).sum(dim=2)

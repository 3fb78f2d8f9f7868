"""PPO on models that a policy over blends drew and that were really evaluated.

Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347), with generalised
advantages (arXiv 1506.02438). An episode is a model, a step its next place, the one reward its
utility under the preference it was drawn for. The critic is the surrogate: a state is worth what it
expects of the model that the policy would build from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hm3rl.agents.layer_policy import LayerPolicy, Rollout

MEMORY = 32
"""Latest episodes that an update sees; the ratio of densities is of when each was drawn."""

LEAST = 4
EPOCHS, CLIP, TRACE, LARGEST_NORM = 4, 0.2, 0.95, 1.0


@dataclass(frozen=True)
class Episodes:
    """Models that were drawn and scored.

    Attributes:
        preferences: Shape (m, K).
        rollout: How they were drawn.
        vectors: f / z*, shape (m, K).
    """

    preferences: Tensor
    rollout: Rollout
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.preferences)

    def and_later(self, later: Episodes) -> Episodes:
        """The latest `MEMORY` of both."""

        def joined(one: Tensor, other: Tensor) -> Tensor:
            return torch.cat([one, other])[-MEMORY:]

        rollout = Rollout(*map(joined, self.rollout, later.rollout))
        vectors = joined(self.vectors, later.vectors)
        return Episodes(joined(self.preferences, later.preferences), rollout, vectors)


def advantages(values: Tensor, utilities: Tensor) -> Tensor:
    """Generalised advantages of episodes with one reward, at their end, and no discount.

    Args:
        values: What each state is expected to be worth, shape (m, T).
        utilities: What the episodes were worth, shape (m,).

    Returns:
        Shape (m, T).
    """
    errors = torch.cat([values, utilities[:, None]], dim=1).diff(dim=1)
    found, later = torch.zeros_like(errors), errors.new_zeros(len(errors))
    for t in range(errors.shape[1] - 1, -1, -1):
        later = errors[:, t] + TRACE * later
        found[:, t] = later
    return found


def update(
    policy: LayerPolicy,
    optimiser: torch.optim.Optimizer,
    episodes: Episodes,
    utility: Callable[[Tensor, Tensor], Tensor],
    expected: Callable[[Tensor, Tensor], Tensor],
) -> float:
    """Some epochs of clipped policy gradient on all episodes at once.

    Args:
        policy: What is trained.
        optimiser: Of its parameters.
        episodes: At least two.
        utility: Of preferences and f / z* (m, K), shape (m,).
        expected: The same of preferences and blends (m, 1 + L, N), by the surrogate.

    Returns:
        The clipped objective's last value, negated.
    """
    goals, rollout = episodes.preferences, episodes.rollout
    with torch.no_grad():
        states = [
            expected(goals, policy.completed(goals, rollout.steps[:, :t]))
            for t in range(rollout.steps.shape[1])
        ]
        gained = advantages(torch.stack(states, dim=1), utility(goals, episodes.vectors))
        gained = (gained - gained.mean()) / gained.std().clamp(min=1e-8)
    value = 0.0
    for _ in range(EPOCHS):
        ratio = (policy.log_prob(goals, rollout.steps) - rollout.log_prob).exp()
        loss = -torch.minimum(ratio * gained, ratio.clamp(1 - CLIP, 1 + CLIP) * gained).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), LARGEST_NORM)
        optimiser.step()
        value = float(loss.detach())
    return value


def episodes_of(preferences: np.ndarray, rollout: Rollout, vectors: np.ndarray) -> Episodes:
    """Episodes from arrays of shape (m, K)."""
    return Episodes(torch.as_tensor(preferences), rollout, torch.as_tensor(vectors))

"""What all policies share: heads that know the preference, as PPO reads them.

A policy says in `observed` what it makes of a batch of observations; everything that sb3-contrib's
`MaskablePPO` asks of it follows from that.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn


class Heads(NamedTuple):
    """What the networks say of a batch of states.

    Attributes:
        logits: Action scores before masking, shape (..., actions); means of the proto-action for a
            policy that acts by those.
        values: V, shape (..., K).
        utility: V_u, shape (...).
        likelihoods: What the vector critic expects of each task's logarithmic likelihood, in units
            of the replay's spread, shape (..., K); (..., 0) without that head.
    """

    logits: Tensor
    values: Tensor
    utility: Tensor
    likelihoods: Tensor


class Conditioned(nn.Module):
    """A two-layer network of a state and a preference.

    Args:
        state: Width of the state.
        objectives: K.
        hidden: Width inside and outside.
        mode: `concat` puts the preference beside the state; `film` scales and shifts the hidden
            units by it (Perez et al., 2018).
    """

    def __init__(self, state: int, objectives: int, hidden: int, mode: str) -> None:
        super().__init__()
        self.film = mode == "film"
        self.first = nn.Linear(state + (0 if self.film else objectives), hidden)
        self.modulation = nn.Linear(objectives, 2 * hidden) if self.film else None
        self.second = nn.Linear(hidden, hidden)

    def forward(self, state: Tensor, preference: Tensor) -> Tensor:
        """Features of shape (..., hidden)."""
        if self.modulation is None:
            inner = self.first(torch.cat([state, preference], dim=-1))
        else:
            scale, shift = self.modulation(preference).chunk(2, dim=-1)
            inner = self.first(state) * (1.0 + scale) + shift
        return torch.relu(self.second(torch.relu(inner)))


class PreferencePolicy(MaskableActorCriticPolicy):
    """Masked categorical policy with a vector and a scalar critic, conditioned on the preference.

    Attributes:
        critic: Which critic `forward` and `evaluate_actions` return, for the PPO that trains it:
            `vector` (K columns) or `scalar` (one column, V_u).
    """

    critic: str

    @abstractmethod
    def observed(self, obs: PyTorchObs) -> Heads:
        """Heads of a batch of observations (Stable-Baselines3's form), shapes (B, ...)."""

    def _values(self, heads: Heads) -> Tensor:
        return heads.values if self.critic == "vector" else heads.utility[:, None]

    def _distribution(
        self, heads: Heads, masks: np.ndarray | Tensor | None
    ) -> MaskableDistribution:
        distribution = self.action_dist.proba_distribution(action_logits=heads.logits)
        if masks is not None:
            distribution.apply_masking(masks)
        return distribution

    def forward(
        self,
        obs: PyTorchObs,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, K or 1) and log-probabilities (B,)."""
        heads = self.observed(obs)
        distribution = self._distribution(heads, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self._values(heads), distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, K or 1), log-probabilities (B,) and entropies (B,) of given actions."""
        heads = self.observed(obs)
        distribution = self._distribution(heads, action_masks)
        return self._values(heads), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(
        self, obs: PyTorchObs, action_masks: np.ndarray | None = None
    ) -> MaskableDistribution:
        """The masked action distribution."""
        return self._distribution(self.observed(obs), action_masks)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values, shape (B, K or 1)."""
        return self._values(self.observed(obs))

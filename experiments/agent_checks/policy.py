"""The actor-critic for environments whose states are flat features, of the merging agent's heads.

Only the encoder differs from `PathPolicy` (one layer instead of a GRU), and that actions have no
embeddings: the last layer of the actor scores them.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from hm3rl.agents.preference_policy import Conditioned, Heads, PreferencePolicy


class StateEncoder(BaseFeaturesExtractor):
    """One layer on the state features.

    Args:
        observation_space: Of `PreferenceEnv`.
        hidden: Width.
    """

    def __init__(self, observation_space: spaces.Dict, hidden: int) -> None:
        super().__init__(observation_space, features_dim=hidden)
        width = int(observation_space["state"].shape[0])  # type: ignore[index]
        self.layer = nn.Linear(width, hidden)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """State of each observation, shape (B, hidden)."""
        return torch.relu(self.layer(observations["state"]))


class StatePolicy(PreferencePolicy):
    """Categorical policy with vector and scalar critics over `PreferenceEnv`.

    Args:
        observation_space: Of `PreferenceEnv`.
        action_space: Of `PreferenceEnv`.
        lr_schedule: Step size schedule.
        hidden: Width of all layers.
        conditioning: `concat` or `film`.
        critic: See `PreferencePolicy`.
        **kwargs: Passed on to Stable-Baselines3.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        hidden: int,
        conditioning: str,
        critic: str,
        **kwargs: Any,
    ) -> None:
        self.hidden, self.conditioning, self.critic = hidden, conditioning, critic
        self.objectives = int(observation_space["preference"].shape[0])  # type: ignore[index]
        kwargs["features_extractor_class"] = StateEncoder
        kwargs["features_extractor_kwargs"] = {"hidden": hidden}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        hidden, k = self.hidden, self.objectives
        assert isinstance(self.action_space, spaces.Discrete)
        self.actor = Conditioned(self.features_dim, k, hidden, self.conditioning)
        self.score = nn.Linear(hidden, int(self.action_space.n))
        self.vector_critic = Conditioned(self.features_dim, k, hidden, self.conditioning)
        self.vector_value = nn.Linear(hidden, k)
        self.utility_critic = Conditioned(self.features_dim, k, hidden, self.conditioning)
        self.utility_value = nn.Linear(hidden, 1)
        with torch.no_grad():
            # A policy that starts near uniform explores; a small last layer makes it so.
            self.score.weight.mul_(0.01)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def observed(self, obs: PyTorchObs) -> Heads:
        """Heads of a batch of observations, shapes (B, ...)."""
        data = preprocess_obs(obs, self.observation_space, normalize_images=False)
        assert isinstance(data, dict)
        return self.heads(data["state"], data["preference"])

    def heads(self, state: Tensor, preference: Tensor) -> Heads:
        """Heads of states (B, S) under preferences (B, K)."""
        encoded = self.features_extractor({"state": state})
        return Heads(
            self.score(self.actor(encoded, preference)),
            self.vector_value(self.vector_critic(encoded, preference)),
            self.utility_value(self.utility_critic(encoded, preference)).squeeze(-1),
            encoded.new_empty(len(encoded), 0),
        )

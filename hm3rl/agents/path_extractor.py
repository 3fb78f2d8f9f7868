"""A feature extractor for path episodes, for the `policy_kwargs` of Stable-Baselines3."""

from __future__ import annotations

import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn


class PathExtractor(BaseFeaturesExtractor):
    """Embeds the path's tokens, each at its place, and mixes them with the rest of an observation.

    `policy_kwargs={"features_extractor_class": PathExtractor}` with a policy for dictionaries
    (`MultiInputPolicy`). Nothing but the observation space is needed; `hm3`'s own encoder
    (`hm3rl.agents.encoder`) reads recipes and descriptors instead of learning a row for each token.

    Args:
        observation_space: Of a `PathEnv`, with the path as tokens.
        embedding: Width of a token's embedding.
        hidden: Width of what comes out.
    """

    def __init__(
        self, observation_space: spaces.Dict, embedding: int = 16, hidden: int = 64
    ) -> None:
        super().__init__(observation_space, features_dim=hidden)
        path = observation_space["path"]
        assert isinstance(path, spaces.Box)
        self.horizon = path.shape[0]
        self.others = [key for key in observation_space.spaces if key not in ("path", "length")]
        width = sum(flatdim(observation_space[key]) for key in self.others) + 1
        self.token = nn.Embedding(int(path.high.max()) + 1, embedding)
        self.mix = nn.Sequential(nn.Linear(self.horizon * embedding + width, hidden), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features, shape (B, hidden)."""
        tokens = self.token(observations["path"].long()).flatten(1)
        length = observations["length"].float() / self.horizon
        others = [observations[key].float().flatten(1) for key in self.others]
        features: Tensor = self.mix(torch.cat([tokens, length, *others], dim=1))
        return features

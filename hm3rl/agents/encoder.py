"""The state encoder: a GRU over the layers of the path so far (HM3, section 3.2).

Tokens are embedded as [psi_m(recipe features of the member); psi_l(layer index); W phi], with phi
the layer's descriptor. A member's index in the pool is never an input, so networks carry over to
other members of known recipes. The embeddings of all actions serve twice: as inputs of the GRU and
as the keys by which the policy scores actions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from hm3rl.paths.space import PathSpace

RELATIONS = 6
"""Features of an action relative to the last layer: see `relation_table`."""


class PathShape(NamedTuple):
    """Sizes of a path space, all a network needs to be built.

    Attributes:
        members: M.
        depth: L.
        horizon: Most actions of an episode.
        context: R, recipe features of a member.
        descriptor: D, features of a layer.
    """

    members: int
    depth: int
    horizon: int
    context: int
    descriptor: int

    @classmethod
    def of(cls, space: PathSpace) -> PathShape:
        """Sizes of a space."""
        return cls(
            len(space.members),
            space.depth,
            space.horizon,
            space.context.shape[-1],
            space.descriptors.shape[-1],
        )

    @property
    def stop(self) -> int:
        """Number of the action STOP; padding is the next number."""
        return self.members * (1 + self.depth)


def relation_table(shape: PathShape) -> Tensor:
    """How each action relates to the last token: same member and how its layer index moves.

    Returns:
        Tensor of shape (tokens, actions, RELATIONS): same member, next layer, same member and next
        layer, same layer again, layers skipped, layers gone back to. Zero for stems and STOP.
    """
    m, depth, stop = shape.members, shape.depth, shape.stop
    member = torch.full((stop + 2,), -1)
    layer = torch.full((stop + 2,), -2)
    member[:m], layer[:m] = torch.arange(m), -1
    member[m:stop] = torch.arange(m).repeat_interleave(depth)
    layer[m:stop] = torch.arange(depth).repeat(m)
    move = layer[None, :] - layer[:, None]
    same = member[:, None] == member[None, :]
    table = torch.stack(
        [same, move == 1, same & (move == 1), move == 0, move > 1, move < 0], dim=-1
    ).float()
    table[stop:] = 0.0
    table[:, :m] = 0.0
    table[:, stop:] = 0.0
    return table[:, : stop + 1]


class PathEncoder(BaseFeaturesExtractor):
    """Embeds tokens and runs the GRU.

    Args:
        observation_space: Of `MergePathEnv`.
        shape: Sizes.
        embedding: E, width of each of the three embeddings.
        hidden: H, width of the GRU.
    """

    def __init__(
        self, observation_space: spaces.Dict, shape: PathShape, embedding: int, hidden: int
    ) -> None:
        super().__init__(observation_space, features_dim=hidden + embedding)
        self.shape = PathShape(*shape)
        self.member = nn.Sequential(
            nn.Linear(shape.context, embedding), nn.Tanh(), nn.Linear(embedding, embedding)
        )
        # One row for each layer index, one for "a stem", one for STOP, one for padding.
        self.layer = nn.Embedding(shape.depth + 3, embedding)
        self.descriptor = nn.Linear(shape.descriptor, embedding)
        self.time = nn.Embedding(shape.horizon + 1, embedding)
        self.gru = nn.GRU(3 * embedding, hidden, batch_first=True)
        self.start = nn.Parameter(torch.zeros(hidden))

    def tokens(self, context: Tensor, descriptors: Tensor) -> Tensor:
        """Embeddings of all tokens.

        Args:
            context: Shape (B, M*R).
            descriptors: Shape (B, M*L*D).

        Returns:
            Shape (1 or B, tokens, 3E); 1 when all rows share one context, as in any one run.
        """
        shape = self.shape
        if bool((context == context[:1]).all()) and bool((descriptors == descriptors[:1]).all()):
            context, descriptors = context[:1], descriptors[:1]
        n, m, depth = len(context), shape.members, shape.depth
        member = self.member(context.reshape(n, m, shape.context))
        phi = self.descriptor(descriptors.reshape(n, m, depth, shape.descriptor))
        index = self.layer.weight
        width = index.shape[1]
        stems = torch.cat([member, index[depth].expand(n, m, width), phi.mean(dim=2)], dim=-1)
        layers = torch.cat(
            [
                member[:, :, None].expand(n, m, depth, width),
                index[:depth].expand(n, m, depth, width),
                phi,
            ],
            dim=-1,
        ).reshape(n, m * depth, 3 * width)
        ends = torch.zeros(n, 2, 3 * width, dtype=member.dtype, device=member.device)
        ends[:, :, width : 2 * width] = index[depth + 1 :]
        return torch.cat([stems, layers, ends], dim=1)

    def states(self, table: Tensor, path: Tensor) -> Tensor:
        """States before every token of the paths.

        Args:
            table: From `tokens`.
            path: Token rows, integers of shape (B, horizon).

        Returns:
            Shape (B, horizon + 1, H + E): the state after 0, 1, ... tokens, and the time.
        """
        b, steps = path.shape
        if len(table) == 1:
            inputs = table[0][path]
        else:
            inputs = table.gather(1, path[:, :, None].expand(b, steps, table.shape[-1]))
        start = self.start.expand(1, b, -1).contiguous()
        run, _ = self.gru(inputs, start)
        states = torch.cat([self.start.expand(b, 1, -1), run], dim=1)
        time = self.time.weight[: steps + 1].expand(b, steps + 1, -1)
        return torch.cat([states, time], dim=-1)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """State of each observation, shape (B, H + E)."""
        table = self.tokens(observations["context"], observations["descriptors"])
        states = self.states(table, observations["path"].long())
        at = observations["length"].long().reshape(-1)
        return states[torch.arange(len(at), device=at.device), at]

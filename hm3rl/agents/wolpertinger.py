"""Wolpertinger: a Gaussian proto-action, mapped to the best of its nearest legal actions.

HM3's "efficient policy discretisation" (section 3, equation (11); Dulac-Arnold et al., 2015). The
policy draws a point of the action-embedding space, A ~ N(mu(S), diag sigma^2). Of its M' nearest
legal actions the one with the highest score is taken with probability 1 - epsilon, any of them with
probability epsilon. The embeddings are those of the state encoder, frozen while they serve, since
distances on the numbers of models and layers would be arbitrary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hm3rl.agents.policy import DecodingState, PathPolicy
from hm3rl.agents.replay import share_to_go
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.envs.proto import BOUND
from hm3rl.objectives.utility import Utility
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.path_surrogate import PathSurrogate

INITIAL_LOG_STD = -1.0


def action_box(embedding: int) -> spaces.Box:
    """The space of proto-actions: the state encoder's embeddings are three parts wide."""
    return spaces.Box(-BOUND, BOUND, shape=(3 * embedding,), dtype=np.float32)


class Discretiser:
    """Maps proto-actions to legal actions.

    The paper scores an action by r + gamma V(S'), but r is not known before the path is complete.
    Here an action that leaves the path open has the value of the state it leads to, divided by the
    share of the return that is paid from there on (as if the path became as long as it may); STOP
    has the surrogate's utility of the completed path, or the value of the state it is taken in
    while the surrogate has seen too little.

    Args:
        space: The path space.
        settings: M', epsilon, discount and reward.
        utility: What a path is worth.
        seed: Seed of epsilon's draws in rollouts.
    """

    def __init__(
        self, space: PathSpace, settings: HM3AgentSettings, utility: Utility, seed: int
    ) -> None:
        self.space = space
        self.settings = settings
        self.utility = utility
        self.model: PathSurrogate | None = None
        self.rng = np.random.default_rng(seed)
        self.context = torch.as_tensor(space.context.ravel()[None], dtype=torch.float32)
        self.descriptors = torch.as_tensor(space.descriptors.ravel()[None], dtype=torch.float32)

    def nearest(self, policy: WolpertingerPolicy, proto: np.ndarray, legal: np.ndarray) -> Any:
        """The M' nearest legal actions of each proto-action, nearest first.

        Returns:
            Actions, integers of shape (n, M'), and which of them exist (there may be fewer legal
            ones), boolean of the same shape.
        """
        embedded = policy.embeddings.numpy()
        distance = ((proto[:, None, :] - embedded[None]) ** 2).sum(axis=2)
        distance[~legal] = np.inf
        order = distance.argsort(axis=1, kind="stable")[:, : self.settings.neighbours]
        return order, np.isfinite(np.take_along_axis(distance, order, axis=1))

    @torch.no_grad()
    def __call__(
        self,
        policy: WolpertingerPolicy,
        proto: np.ndarray,
        decoding: DecodingState,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Actions for n proto-actions.

        Args:
            policy: Lends the frozen embeddings and the critic.
            proto: Shape (n, D).
            decoding: Where the agent stands; epsilon applies where the temperature is above zero.
            rng: Source of randomness; default: the discretiser's own.

        Returns:
            Legal actions, integers of shape (n,).
        """
        rng = self.rng if rng is None else rng
        near, exists = self.nearest(policy, proto, decoding.legal)
        scores = np.where(exists, -np.inf, np.nan)
        open_ = np.flatnonzero(exists.sum(axis=1) > 1)
        if len(open_):
            scores[open_] = self._scores(
                policy, near[open_], DecodingState(*(x[open_] for x in decoding))
            )
        best = np.where(exists, scores, -np.inf).argmax(axis=1)
        luck = (rng.random(len(near)) < self.settings.epsilon) & (decoding.temperature > 0)
        drawn = (rng.random(len(near)) * exists.sum(axis=1)).astype(int)
        return np.asarray(near[np.arange(len(near)), np.where(luck, drawn, best)])

    def _scores(
        self, policy: WolpertingerPolicy, actions: np.ndarray, decoding: DecodingState
    ) -> np.ndarray:
        n, width = actions.shape
        path = np.repeat(decoding.path, width, axis=0)
        taken = np.repeat(decoding.taken, width)
        preferences = np.repeat(decoding.preference, width, axis=0)
        chosen = actions.ravel()
        ends = chosen == self.space.stop
        path[np.arange(len(path)), taken] = chosen
        # Before STOP the critic knows the state; after it there is no state to know.
        at = np.where(ends, taken, taken + 1)
        values = policy.worth(
            torch.as_tensor(path),
            torch.as_tensor(at),
            self.context,
            self.descriptors,
            torch.as_tensor(preferences, dtype=torch.float32),
        )
        horizon = torch.full((len(at),), float(self.space.horizon))
        left = (horizon - torch.as_tensor(at)).clamp(min=1.0)
        spread = self.settings.reward == "spread"
        scores = (values / share_to_go(left, horizon, self.settings.gamma, spread)).double().numpy()
        if ends.any() and self.model is not None and self.model.ready:
            complete = path[ends]
            lengths = self.space.lengths(complete)
            scores[ends] = self.utility(self.model.mean(complete), lengths, preferences[ends])
        return np.asarray(scores.reshape(n, width))


class WolpertingerPolicy(PathPolicy):
    """`PathPolicy` whose action head is the mean of a Gaussian proto-action.

    Stable-Baselines3's PPO sees the Box of proto-actions: rollouts store them, and ratio and
    entropy are those of the Gaussian. Imitating an action regresses the mean onto its embedding.

    Args:
        observation_space: Of `MergePathEnv`.
        action_space: From `action_box`.
        lr_schedule: Step size schedule.
        **kwargs: As `PathPolicy`; `use_sde` must be off.
    """

    embeddings: Tensor

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        use_sde: bool = False,
        **kwargs: Any,
    ) -> None:
        if use_sde:
            raise ValueError("state-dependent exploration makes no sense of proto-actions")
        count = kwargs["shape"][0] * (1 + kwargs["shape"][1]) + 1
        super().__init__(observation_space, spaces.Discrete(count), lr_schedule, **kwargs)
        self.action_space = action_space
        self.discretiser: Discretiser | None = None

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        del self.query, self.relation, self.key
        width = 3 * self.embedding
        self.mean = nn.Linear(self.hidden, width)
        self.log_std = nn.Parameter(torch.full((width,), INITIAL_LOG_STD))
        self.register_buffer("embeddings", torch.zeros(self.shape.stop + 1, width))
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _action(self, features: Tensor, table: Tensor, last: Tensor) -> Tensor:
        """Means of the proto-action, shape (B, T, 3E)."""
        return self.mean(features)

    @torch.no_grad()
    def freeze(self, context: Tensor, descriptors: Tensor) -> None:
        """Take over the encoder's embeddings as they are now."""
        self.embeddings.copy_(self.encoder.tokens(context[:1], descriptors[:1])[0, :-1])

    def _gaussian(self, mean: Tensor) -> Normal:
        return Normal(mean, self.log_std.exp().expand_as(mean))

    def imitation(self, action: Tensor, tokens: Tensor, masks: Tensor) -> Tensor:
        """Squared distance of the mean from the action's embedding, shape (B, T)."""
        taken = tokens.clamp(max=self.shape.stop)
        return ((action - self.embeddings[taken]) ** 2).sum(dim=-1)

    def divergence(self, target: Tensor, found: Tensor, masks: Tensor) -> Tensor:
        """KL divergence of two proto-action Gaussians of equal spread, shape (B, T)."""
        return kl_divergence(self._gaussian(target), self._gaussian(found)).sum(dim=-1)

    def choose(
        self, action: Tensor, decoding: DecodingState, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw proto-actions around the means and map them to legal actions."""
        assert self.discretiser is not None
        mean = action.double().numpy()
        spread = self.log_std.detach().exp().double().numpy()
        noise = rng.standard_normal(mean.shape) * spread * decoding.temperature[:, None]
        return self.discretiser(self, mean + noise, decoding, rng)

    def forward(
        self,
        obs: PyTorchObs,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Proto-actions (B, 3E), values (B, K or 1) and log-probabilities (B,)."""
        heads = self.observed(obs)
        gaussian = self._gaussian(heads.logits)
        proto = heads.logits if deterministic else gaussian.sample()
        return proto, self._values(heads), gaussian.log_prob(proto).sum(dim=-1)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, K or 1), log-probabilities (B,) and entropies (B,) of stored proto-actions."""
        heads = self.observed(obs)
        gaussian = self._gaussian(heads.logits)
        log_prob = gaussian.log_prob(actions).sum(dim=-1)
        return self._values(heads), log_prob, gaussian.entropy().sum(dim=-1)

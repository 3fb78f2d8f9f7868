"""The actor-critic network: one policy and three values, all conditioned on the preference.

Actions are scored by the dot product of a query (from the state and the preference) with the key of
the action's own embedding, plus a learned weight for how the action relates to the last layer. The
values are V(S, c, lambda), K-dimensional, the baseline of PPO with linear utilities, and V_u(S, c,
lambda'), scalar, the baseline of advantage-weighted regression and of PPO with any other utility
(method.md, section 4). The outcome of complete paths is predicted by the surrogate
(`surrogate.path_surrogate`). The vector critic can also be made to predict each task's likelihood
(`agent.likelihood_weight`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from hm3rl.agents.encoder import RELATIONS, PathEncoder, PathShape, relation_table
from hm3rl.agents.preference_policy import Conditioned, Heads, PreferencePolicy

MASKED = -1e8


class DecodingState(NamedTuple):
    """Where n rollouts stand when they choose an action.

    Attributes:
        path: Token rows so far, shape (n, horizon).
        taken: Actions taken, shape (n,).
        legal: Legal actions, boolean of shape (n, actions).
        preference: Shape (n, K).
        temperature: Temperature of the draw, shape (n,); 0 is greedy.
    """

    path: np.ndarray
    taken: np.ndarray
    legal: np.ndarray
    preference: np.ndarray
    temperature: np.ndarray


def _log_probabilities(logits: Tensor, masks: Tensor) -> Tensor:
    return torch.log_softmax(torch.where(masks, logits, torch.tensor(MASKED)), dim=-1)


class PathPolicy(PreferencePolicy):
    """Masked categorical policy over the actions of `MergePathEnv`, with vector and scalar critics.

    Args:
        observation_space: Of `MergePathEnv`.
        action_space: Of `MergePathEnv`.
        lr_schedule: Step size schedule.
        shape: Sizes of the path space.
        embedding: Width of the embeddings.
        hidden: Width of the GRU and the heads.
        conditioning: `concat` or `film`.
        critic: Which critic `forward` and `evaluate_actions` return, for the PPO that trains it:
            `vector` (K columns) or `scalar` (one column, V_u).
        likelihoods: Whether the vector critic has a head for likelihoods.
        **kwargs: Passed on to Stable-Baselines3.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        shape: PathShape,
        embedding: int = 32,
        hidden: int = 64,
        conditioning: str = "concat",
        critic: str = "vector",
        likelihoods: bool = False,
        **kwargs: Any,
    ) -> None:
        self.shape = PathShape(*shape)
        self.embedding, self.hidden = embedding, hidden
        self.conditioning, self.critic = conditioning, critic
        self.likelihoods = likelihoods
        self.objectives = int(observation_space["preference"].shape[0])  # type: ignore[index]
        kwargs["features_extractor_class"] = PathEncoder
        kwargs["features_extractor_kwargs"] = {
            "shape": self.shape,
            "embedding": embedding,
            "hidden": hidden,
        }
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    relations: Tensor

    def _build(self, lr_schedule: Schedule) -> None:
        width, hidden, k = self.features_dim, self.hidden, self.objectives
        self.actor = Conditioned(width, k, hidden, self.conditioning)
        self.query = nn.Linear(hidden, self.embedding)
        self.relation = nn.Linear(hidden, RELATIONS)
        self.key = nn.Linear(3 * self.embedding, self.embedding)
        self.vector_critic = Conditioned(width, k, hidden, self.conditioning)
        self.vector_value = nn.Linear(hidden, k)
        self.utility_critic = Conditioned(width, k, hidden, self.conditioning)
        self.utility_value = nn.Linear(hidden, 1)
        with torch.no_grad():
            # A policy that starts near uniform explores; small last layers make it so.
            self.query.weight.mul_(0.1)
            self.relation.weight.mul_(0.1)
        # Made last, so that the other layers begin as they do without it.
        self.likelihood = nn.Linear(hidden, k) if self.likelihoods else None
        self.register_buffer("relations", relation_table(self.shape), persistent=False)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for unused in ("features_extractor_class", "features_extractor_kwargs"):
            data.pop(unused)
        data.update(
            shape=tuple(self.shape),
            embedding=self.embedding,
            hidden=self.hidden,
            conditioning=self.conditioning,
            critic=self.critic,
            likelihoods=self.likelihoods,
        )
        return data

    @property
    def encoder(self) -> PathEncoder:
        """The state encoder."""
        assert isinstance(self.features_extractor, PathEncoder)
        return self.features_extractor

    def heads(
        self,
        states: Tensor,
        table: Tensor,
        last: Tensor,
        preference: Tensor,
        acting: int | None = None,
    ) -> Heads:
        """Heads of a batch of states.

        Args:
            states: Shape (B, T, S).
            table: Token embeddings, from `PathEncoder.tokens`.
            last: Last token before each state, padding at the start; integers of shape (B, T).
            preference: Shape (B, K).
            acting: Rows whose logits are wanted, the first ones; default all.
        """
        preference = preference[:, None].expand(*states.shape[:2], preference.shape[-1])
        features = self.actor(states[:acting], preference[:acting])
        action = self._action(features, table[:acting], last[:acting])
        valued = self.vector_critic(states, preference)
        utility = self.utility_value(self.utility_critic(states, preference)).squeeze(-1)
        none = valued[..., :0]
        likelihoods = none if self.likelihood is None else self.likelihood(valued)
        return Heads(action, self.vector_value(valued), utility, likelihoods)

    def _action(self, features: Tensor, table: Tensor, last: Tensor) -> Tensor:
        """Scores of all actions, shape (B, T, actions)."""
        keys = self.key(table[:, :-1])
        query = self.query(features) / self.embedding**0.5
        relation = self.relation(features)
        relations = torch.einsum("btar,btr->bta", self.relations[last], relation)
        return query @ keys.transpose(1, 2) + relations

    def observed(self, obs: PyTorchObs) -> Heads:
        """Heads of a batch of observations (Stable-Baselines3's form), shapes (B, ...)."""
        data = preprocess_obs(obs, self.observation_space, normalize_images=False)
        assert isinstance(data, dict)
        path, at = data["path"].long(), data["length"].long().reshape(-1)
        table = self.encoder.tokens(data["context"], data["descriptors"])
        rows = torch.arange(len(at), device=at.device)
        states = self.encoder.states(table, path)[rows, at][:, None]
        last = torch.where(at > 0, path[rows, (at - 1).clamp(min=0)], self.shape.stop + 1)
        heads = self.heads(states, table, last[:, None], data["preference"])
        return Heads(*(part.squeeze(1) for part in heads))

    def sequences(
        self,
        path: Tensor,
        context: Tensor,
        descriptors: Tensor,
        preference: Tensor,
        acting: int | None = None,
    ) -> Heads:
        """Heads before each token of whole paths, in one pass of the GRU.

        Args:
            path: Token rows, integers of shape (B, horizon).
            context: Shape (1, M*R), shared by all rows.
            descriptors: Shape (1, M*L*D).
            preference: Shape (B, K).
            acting: Rows whose logits are wanted, the first ones; default all.

        Returns:
            Heads of shapes (B, horizon, ...).
        """
        table = self.encoder.tokens(context, descriptors)
        states = self.encoder.states(table, path)[:, :-1]
        first = torch.full_like(path[:, :1], self.shape.stop + 1)
        last = torch.cat([first, path[:, :-1]], dim=1)
        return self.heads(states, table, last, preference, acting)

    def freeze(self, context: Tensor, descriptors: Tensor) -> None:
        """Hold on to the actions' embeddings, for policies that act in their space; not this."""

    def twin(self) -> Self:
        """Another policy of the same shape with the same weights."""
        copied = type(self)(**self._get_constructor_parameters())
        copied.load_state_dict(self.state_dict())
        return copied

    def worth(
        self, path: Tensor, at: Tensor, context: Tensor, descriptors: Tensor, preference: Tensor
    ) -> Tensor:
        """The scalar critic's value of states: w.V for a vector critic, else V_u.

        Args:
            path: Token rows, integers of shape (B, horizon).
            at: Tokens taken in each, integers of shape (B,).
            context: Shape (1, M*R).
            descriptors: Shape (1, M*L*D).
            preference: Shape (B, K).

        Returns:
            Shape (B,).
        """
        table = self.encoder.tokens(context, descriptors)
        states = self.encoder.states(table, path)[torch.arange(len(at)), at]
        if self.critic == "vector":
            values = self.vector_value(self.vector_critic(states, preference))
            return (values * preference).sum(dim=-1)
        return self.utility_value(self.utility_critic(states, preference)).squeeze(-1)

    def imitation(self, action: Tensor, tokens: Tensor, masks: Tensor) -> Tensor:
        """Loss of imitating actions, -log pi; shape (B, T).

        Args:
            action: From `Heads`, shape (B, T, ...).
            tokens: Actions taken, padding where there was none; shape (B, T).
            masks: Legal actions, shape (B, T, actions).
        """
        taken = tokens.clamp(max=self.shape.stop)  # padding is not a step
        return -_log_probabilities(action, masks).gather(2, taken[..., None]).squeeze(2)

    def divergence(self, target: Tensor, found: Tensor, masks: Tensor) -> Tensor:
        """KL(target || found) of two action heads, shape (B, T)."""
        old, new = _log_probabilities(target, masks), _log_probabilities(found, masks)
        return (old.exp() * (old - new) * masks).sum(-1)

    def choose(
        self, action: Tensor, decoding: DecodingState, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw one action in each of n states.

        Args:
            action: From `Heads`, shape (n, ...).
            decoding: Where the agent stands.
            rng: Source of randomness.

        Returns:
            Legal actions, integers of shape (n,).
        """
        logits = action.double().numpy()
        noise = rng.gumbel(size=logits.shape) * decoding.temperature[:, None]
        return np.asarray(np.where(decoding.legal, logits + noise, -np.inf).argmax(axis=1))

    def critics(self) -> list[nn.Parameter]:
        """Parameters of both critics, the shared encoder excepted."""
        parts = [self.vector_critic, self.vector_value, self.utility_critic, self.utility_value]
        if self.likelihood is not None:
            parts.append(self.likelihood)
        return [parameter for part in parts for parameter in part.parameters()]

"""Replayed episodes of environments with flat states, and regression on them.

The counterpart of `agents.replay` and `agents.regression` where rewards may come at every step and
states are features. The rules are the same (method.md, section 4): the policy imitates episodes in
proportion to exp(A / temperature) under hindsight preferences, V learns on the preference that
acted, V_u on hindsight preferences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from hm3rl.agents.discrete_policy import StatePolicy
from hm3rl.envs.multi_objective_vector import Episode

BATCH = 48
LARGEST_WEIGHT = 20.0
MASKED = -1e8


def returns_to_go(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """Discounted sums of what is still to come, sum_i gamma^i r_(t+i); shapes (T, K)."""
    out = np.zeros_like(rewards)
    run = np.zeros(rewards.shape[1])
    for step in reversed(range(len(rewards))):
        run = rewards[step] + gamma * run
        out[step] = run
    return out


class EpisodeReplay:
    """The last episodes, with their returns.

    Args:
        objectives: K.
        gamma: Discount.
        capacity: Most episodes; a new one takes the place of the oldest.
    """

    def __init__(self, objectives: int, gamma: float, capacity: int) -> None:
        self.gamma = gamma
        self.capacity = capacity
        self.episodes: list[Episode] = []
        self.to_go: list[np.ndarray] = []
        self._vectors = np.zeros((capacity, objectives))
        self._next = 0

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def vectors(self) -> np.ndarray:
        """Discounted vector returns, shape (n, K)."""
        return self._vectors[: len(self.episodes)]

    def add(self, episode: Episode) -> None:
        """Remember an episode."""
        to_go = returns_to_go(episode.rewards, self.gamma)
        if len(self.episodes) < self.capacity:
            self.episodes.append(episode)
            self.to_go.append(to_go)
        else:
            self.episodes[self._next], self.to_go[self._next] = episode, to_go
        self._vectors[self._next] = to_go[0]
        self._next = (self._next + 1) % self.capacity


class StepBatch(NamedTuple):
    """All steps of some episodes, one after the other; N steps.

    Attributes:
        states: Shape (N, S).
        actions: Shape (N,).
        masks: Shape (N, A).
        preference: Under which they are learnt from, shape (N, K).
        to_go: Vector returns to go, shape (N, K).
        utility: u of what the step leads to: of the return to go if u is linear, else of the
            episode's return; shape (N,).
        first: Position of the first step of each step's episode, shape (N,).
    """

    states: Tensor
    actions: Tensor
    masks: Tensor
    preference: Tensor
    to_go: Tensor
    utility: Tensor
    first: Tensor


class EpisodeRegression:
    """Advantage-weighted regression and the training of both critics on an `EpisodeReplay`.

    Args:
        policy: The networks.
        utility: u_lambda of scaled returns and preferences, shapes (..., K) -> (...).
        linear: Whether u_lambda is a weighted sum, so that it is worth of parts of an episode too.
        weighting: `trajectory` (episodes drawn by weight, so that no baseline is needed) or `step`
            (A = u - V_u at each state; linear utilities profit, because parts of poor episodes
            may be good).
        temperature: Of the weights, in units of the utilities' spread.
        hindsight: Whether episodes are relabelled with other preferences.
        sampler: Draws hindsight preferences: their number and a generator -> shape (n, K).
        rate: Step size.
        rng: Source of randomness.
    """

    def __init__(
        self,
        policy: StatePolicy,
        utility: Callable[[np.ndarray, np.ndarray], np.ndarray],
        linear: bool,
        weighting: str,
        temperature: float,
        hindsight: bool,
        sampler: Callable[[int, np.random.Generator], np.ndarray],
        rate: float,
        rng: np.random.Generator,
    ) -> None:
        self.policy = policy
        self.utility = utility
        self.linear = linear
        self.weighting = weighting
        self.temperature = temperature
        self.hindsight = hindsight
        self.sampler = sampler
        self.rng = rng
        self.optimiser = torch.optim.Adam(policy.parameters(), lr=rate)

    def step(self, replay: EpisodeReplay, critics: bool = True) -> dict[str, float]:
        """One gradient step on the policy and, if asked for, on both critics; returns the losses.

        With step weighting V_u is trained in any case, because the weights need it.
        """
        self.policy.set_training_mode(True)
        acting = self._policy_batch(replay)
        heads = self.policy.heads(acting.states, acting.preference)
        masked = torch.where(acting.masks, heads.logits, torch.tensor(MASKED).to(heads.logits))
        log_prob = torch.log_softmax(masked, dim=-1).gather(1, acting.actions[:, None]).squeeze(1)
        weight = self._weights(replay, acting, heads.utility.detach())
        loss = -(log_prob * weight).sum() / weight.sum().clamp(min=1e-6)
        report = {"regression/policy": loss.item()}
        if critics or self.weighting == "step":
            goals = self.sampler(BATCH, self.rng)
            other = self._batch(replay, self._uniform(replay), goals)
            found = self.policy.heads(other.states, other.preference).utility
            utility = huber_loss(found, other.utility)
            loss = loss + 0.5 * utility
            report["regression/utility"] = utility.item()
        if critics:
            rows = self._uniform(replay)
            own = np.stack([replay.episodes[i].preference for i in rows])
            acted = self._batch(replay, rows, own)
            value = huber_loss(
                self.policy.heads(acted.states, acted.preference).values, acted.to_go
            )
            loss = loss + 0.5 * value
            report["regression/value"] = value.item()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimiser.step()
        self.policy.set_training_mode(False)
        return report

    def _uniform(self, replay: EpisodeReplay) -> np.ndarray:
        return self.rng.integers(len(replay), size=BATCH)

    @property
    def _drawn(self) -> bool:
        """Whether episodes are drawn by their weight, which leaves none to apply."""
        return self.hindsight and self.weighting == "trajectory"

    def _policy_batch(self, replay: EpisodeReplay) -> StepBatch:
        rows = self._uniform(replay)
        if not self.hindsight:
            own = np.stack([replay.episodes[i].preference for i in rows])
            return self._batch(replay, rows, own)
        preferences = self.sampler(BATCH, self.rng)
        if self._drawn:
            utilities = self._every(replay, preferences)
            spread = np.maximum(utilities.std(axis=1, keepdims=True), 1e-6)
            # Gumbel-max: one draw from softmax(u / (temperature * spread)) for each preference.
            logits = utilities / (self.temperature * spread)
            rows = (logits + self.rng.gumbel(size=logits.shape)).argmax(axis=1)
        return self._batch(replay, rows, preferences)

    def _every(self, replay: EpisodeReplay, preferences: np.ndarray) -> np.ndarray:
        """Utility of every episode under every preference, shape (P, n)."""
        return self.utility(replay.vectors[None], preferences[:, None])

    def _weights(self, replay: EpisodeReplay, batch: StepBatch, baseline: Tensor) -> Tensor:
        if self._drawn:
            return torch.ones_like(baseline)
        utilities = self._every(replay, batch.preference.cpu().numpy().astype(np.float64))
        spread = np.maximum(utilities.std(axis=1), 1e-6) * self.temperature
        scale = torch.as_tensor(spread, dtype=torch.float32, device=baseline.device)
        advantage = batch.utility - baseline
        if self.weighting == "trajectory":
            advantage = advantage[batch.first]
        return (advantage / scale).exp().clamp(max=LARGEST_WEIGHT)

    def _batch(self, replay: EpisodeReplay, rows: np.ndarray, preferences: np.ndarray) -> StepBatch:
        chosen = [replay.episodes[i] for i in rows]
        lengths = np.array([len(episode.actions) for episode in chosen])
        first = np.repeat(np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        preference = np.repeat(preferences, lengths, axis=0)
        to_go = np.concatenate([replay.to_go[i] for i in rows])
        led_to = to_go if self.linear else to_go[first]
        utility = self.utility(led_to, preference)
        device = self.policy.device
        return StepBatch(
            torch.as_tensor(np.concatenate([e.states for e in chosen]), device=device),
            torch.as_tensor(np.concatenate([e.actions for e in chosen]), device=device),
            torch.as_tensor(np.concatenate([e.masks for e in chosen]), device=device),
            torch.as_tensor(preference, dtype=torch.float32, device=device),
            torch.as_tensor(to_go, dtype=torch.float32, device=device),
            torch.as_tensor(utility, dtype=torch.float32, device=device),
            torch.as_tensor(first, device=device),
        )

"""Replayed episodes of environments with flat states, and regression on them.

The counterpart of `hm3rl.agents.replay` and `hm3rl.agents.regression` where rewards may come at
every step and states are features. The rules are the same (method.md, section 4): the policy
imitates episodes in proportion to exp(u / temperature) under hindsight preferences, V learns on the
preference that acted, V_u on hindsight preferences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from experiments.agent_checks.policy import StatePolicy
from experiments.agent_checks.preference_env import Episode, PreferenceEnv

BATCH = 48


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
        preference: Under which they are learnt from, shape (N, K).
        to_go: Vector returns to go, shape (N, K).
        utility: u of what the step leads to: of the return to go if u is linear, else of the
            episode's return; shape (N,).
    """

    states: Tensor
    actions: Tensor
    preference: Tensor
    to_go: Tensor
    utility: Tensor


class EpisodeRegression:
    """Advantage-weighted regression and the training of both critics on an `EpisodeReplay`.

    Args:
        policy: The networks.
        env: Says what a return is worth.
        replay: The episodes.
        temperature: Of the weights, in units of the utilities' spread.
        sampler: Draws hindsight preferences: their number and a generator -> shape (n, K).
        rate: Step size.
        rng: Source of randomness.
    """

    def __init__(
        self,
        policy: StatePolicy,
        env: PreferenceEnv,
        replay: EpisodeReplay,
        temperature: float,
        sampler: Callable[[int, np.random.Generator], np.ndarray],
        rate: float,
        rng: np.random.Generator,
    ) -> None:
        self.policy = policy
        self.env = env
        self.replay = replay
        self.temperature = temperature
        self.sampler = sampler
        self.rng = rng
        self.optimiser = torch.optim.Adam(policy.parameters(), lr=rate)

    def step(self, critics: bool = True) -> None:
        """One gradient step on the policy and, if asked for, on both critics."""
        self.policy.set_training_mode(True)
        preferences = self.sampler(BATCH, self.rng)
        acting = self.batch(self._imitated(preferences), preferences)
        logits = self.policy.heads(acting.states, acting.preference).logits
        log_prob = torch.log_softmax(logits, dim=-1).gather(1, acting.actions[:, None])
        loss = -log_prob.mean()
        if critics:
            goals = self.sampler(BATCH, self.rng)
            other = self.batch(self._uniform(), goals)
            found = self.policy.heads(other.states, other.preference).utility
            loss = loss + 0.5 * huber_loss(found, other.utility)
            rows = self._uniform()
            acted = self.batch(rows, np.stack([self.replay.episodes[i].preference for i in rows]))
            values = self.policy.heads(acted.states, acted.preference).values
            loss = loss + 0.5 * huber_loss(values, acted.to_go)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimiser.step()
        self.policy.set_training_mode(False)

    def _uniform(self) -> np.ndarray:
        return self.rng.integers(len(self.replay), size=BATCH)

    def _imitated(self, preferences: np.ndarray) -> np.ndarray:
        """An episode for each preference, drawn from softmax(u / (temperature * spread))."""
        utilities = self.env.utility(self.replay.vectors[None], preferences[:, None])
        spread = np.maximum(utilities.std(axis=1, keepdims=True), 1e-6)
        logits = utilities / (self.temperature * spread)
        rows: np.ndarray = (logits + self.rng.gumbel(size=logits.shape)).argmax(axis=1)
        return rows

    def batch(self, rows: np.ndarray, preferences: np.ndarray) -> StepBatch:
        """All steps of some episodes, each under a preference; shapes (B,) and (B, K)."""
        chosen = [self.replay.episodes[i] for i in rows]
        to_go = np.concatenate([self.replay.to_go[i] for i in rows])
        lengths = np.array([len(episode.actions) for episode in chosen])
        preference = np.repeat(preferences, lengths, axis=0)
        led_to = to_go
        if not self.env.linear:
            led_to = np.repeat([self.replay.to_go[i][0] for i in rows], lengths, axis=0)
        return StepBatch(
            torch.as_tensor(np.concatenate([e.states for e in chosen])),
            torch.as_tensor(np.concatenate([e.actions for e in chosen])),
            torch.as_tensor(preference, dtype=torch.float32),
            torch.as_tensor(to_go, dtype=torch.float32),
            torch.as_tensor(self.env.utility(led_to, preference), dtype=torch.float32),
        )

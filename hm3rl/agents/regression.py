"""Advantage-weighted regression from replayed trajectories, and the training of both critics.

Relabelling a trajectory with another preference changes its utility, never its actions: a path that
was poor under the preference that made it may be the best known under another (hindsight).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from hm3rl.agents.policy import Heads, PathPolicy
from hm3rl.agents.replay import Replay, TrajectoryBatch
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import Scalarisation, scalarise
from hm3rl.settings import AgentSettings

BATCH = 64
LARGEST_WEIGHT = 20.0
MASKED = -1e8


class Regression:
    """Supervised updates of a `PathPolicy`.

    Each update has two parts. The policy imitates trajectories weighted by exp(A / temperature)
    (Peng et al., 2019). With `weighting=trajectory` and hindsight the weights are normalised over
    the whole replay for each sampled preference, so the trajectories are drawn by weight and the
    baseline cancels; otherwise A = u - V_u, for the first state (trajectory) or for each state
    (step). The critics learn from evaluated trajectories only: V on the preference that acted, V_u
    on hindsight preferences (method.md, section 4).

    Args:
        policy: The networks.
        settings: Weighting, temperature, hindsight, step size.
        rng: Source of randomness.
    """

    def __init__(
        self, policy: PathPolicy, settings: AgentSettings, rng: np.random.Generator
    ) -> None:
        self.policy = policy
        self.settings = settings
        self.kind: Scalarisation = settings.scalarisation  # type: ignore[assignment]
        self.rng = rng
        self.optimiser = torch.optim.Adam(policy.parameters(), lr=settings.pretrain_rate)

    def step(self, replay: Replay, rows: np.ndarray) -> dict[str, float]:
        """One gradient step on trajectories `rows` of the replay; returns the losses."""
        self.policy.set_training_mode(True)
        acting = self._policy_loss(replay, rows)
        evaluated = rows[~replay.imagined[rows]]
        value, utility = self._critic_losses(replay, evaluated)
        loss = acting + 0.5 * (value + utility)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimiser.step()
        self.policy.set_training_mode(False)
        return {
            "regression/policy": acting.item(),
            "regression/value": value.item(),
            "regression/utility": utility.item(),
        }

    def held_out_loss(self, replay: Replay, rows: np.ndarray, seed: int = 0) -> float:
        """Policy loss on trajectories not trained on, with the same preferences every time."""
        with torch.no_grad():
            rng, self.rng = self.rng, np.random.default_rng(seed)
            loss = float(np.mean([self._policy_loss(replay, rows).item() for _ in range(4)]))
            self.rng = rng
        return loss

    def _heads(self, replay: Replay, batch: TrajectoryBatch) -> Heads:
        return self.policy.sequences(
            batch.path, replay.context, replay.descriptors, batch.preference
        )

    def _policy_loss(self, replay: Replay, rows: np.ndarray) -> Tensor:
        settings = self.settings
        cloning = settings.regression == "cloning"
        if settings.hindsight:
            preferences = sample_dirichlet(BATCH, replay.objectives, self.rng)
            drawn = settings.weighting == "trajectory" and not cloning
            if drawn:
                index = self._draw_by_weight(replay, rows, preferences)
            else:
                index = self.rng.choice(rows, size=BATCH)
        else:
            drawn = False
            index = self.rng.choice(rows, size=BATCH)
            preferences = replay.preferences[index]
        batch = replay.batch(index, preferences)
        heads = self._heads(replay, batch)
        logits = torch.where(batch.masks, heads.logits, torch.tensor(MASKED))
        actions = torch.where(batch.steps, batch.path, 0).clamp(max=logits.shape[-1] - 1)
        log_prob = torch.log_softmax(logits, dim=-1).gather(2, actions[..., None]).squeeze(2)
        if drawn or cloning:
            weight = batch.steps.float()
        else:
            weight = self._advantage_weights(replay, rows, batch, heads) * batch.steps
        return -(log_prob * weight).sum() / weight.sum().clamp(min=1e-6)

    def _spread(self, replay: Replay, rows: np.ndarray, preferences: np.ndarray) -> np.ndarray:
        """Standard deviation of the replay's utilities under each preference, shape (B,)."""
        utilities = scalarise(replay.vectors[rows][None], preferences[:, None], self.kind)
        return np.maximum(utilities.std(axis=1), 1e-6)

    def _draw_by_weight(
        self, replay: Replay, rows: np.ndarray, preferences: np.ndarray
    ) -> np.ndarray:
        utilities = scalarise(replay.vectors[rows][None], preferences[:, None], self.kind)
        spread = np.maximum(utilities.std(axis=1, keepdims=True), 1e-6)
        # Gumbel-max: one draw from softmax(u / (temperature * spread)) for each preference.
        logits = utilities / (self.settings.temperature * spread)
        noise = self.rng.gumbel(size=logits.shape)
        return np.asarray(rows[(logits + noise).argmax(axis=1)])

    def _advantage_weights(
        self, replay: Replay, rows: np.ndarray, batch: TrajectoryBatch, heads: Heads
    ) -> Tensor:
        preferences = batch.preference.numpy()
        utility = scalarise(batch.vector.numpy(), preferences, self.kind)
        spread = self._spread(replay, rows, preferences) * self.settings.temperature
        baseline = heads.utility.detach()
        if self.settings.weighting == "trajectory":
            baseline = baseline[:, :1].expand_as(baseline)
        advantage = torch.as_tensor(utility, dtype=torch.float32)[:, None] - baseline
        scaled = advantage / torch.as_tensor(spread, dtype=torch.float32)[:, None]
        return scaled.exp().clamp(max=LARGEST_WEIGHT)

    def _critic_losses(self, replay: Replay, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        if len(rows) == 0:
            return torch.zeros(()), torch.zeros(())
        index = self.rng.choice(rows, size=BATCH)
        acted = replay.batch(index, replay.preferences[index])
        steps = acted.steps.float()
        values = self._heads(replay, acted).values
        target = acted.vector[:, None].expand_as(values)
        value = (huber_loss(values, target, reduction="none").mean(-1) * steps).sum() / steps.sum()
        if self.settings.hindsight:
            relabelled = sample_dirichlet(BATCH, replay.objectives, self.rng)
        else:
            relabelled = replay.preferences[index]
        batch = replay.batch(index, relabelled)
        utility = torch.as_tensor(
            scalarise(batch.vector.numpy(), relabelled, self.kind), dtype=torch.float32
        )
        predicted = self._heads(replay, batch).utility
        error = huber_loss(predicted, utility[:, None].expand_as(predicted), reduction="none")
        return value, (error * steps).sum() / steps.sum()

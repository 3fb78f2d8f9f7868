"""Advantage-weighted regression from replayed trajectories, and the training of both critics.

Relabelling a trajectory with another preference changes its utility, never its actions: a path that
was poor under the preference that made it may be the best known under another (hindsight).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.preference_policy import Heads
from hm3rl.agents.replay import Replay, TrajectoryBatch
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.objectives.scalarisation import Scalarisation, scalarise
from hm3rl.settings import AgentSettings

BATCH = 48
HELD_OUT_BATCHES = 4
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
        """One gradient step on trajectories `rows` of the replay; returns the losses.

        The three losses share one pass of the networks over three batches.
        """
        self.policy.set_training_mode(True)
        batches = [self._policy_batch(replay, rows), *self._critic_batches(replay, rows)]
        heads = self._heads(replay, batches, acting=BATCH)
        acting = self._policy_loss(replay, rows, batches[0], heads[0])
        loss, report = acting, {"regression/policy": acting.item()}
        if len(batches) == 3:
            value, utility = self._critic_losses(batches[1:], heads[1:])
            loss = acting + 0.5 * (value + utility)
            report.update({"regression/value": value.item(), "regression/utility": utility.item()})
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimiser.step()
        self.policy.set_training_mode(False)
        return report

    def held_out_loss(self, replay: Replay, rows: np.ndarray, seed: int = 0) -> float:
        """Policy loss on trajectories not trained on, with the same preferences every time."""
        own, self.rng = self.rng, np.random.default_rng(seed)
        with torch.no_grad():
            batches = [self._policy_batch(replay, rows) for _ in range(HELD_OUT_BATCHES)]
            heads = self._heads(replay, batches)
            losses = [
                self._policy_loss(replay, rows, batch, head).item()
                for batch, head in zip(batches, heads, strict=True)
            ]
        self.rng = own
        return float(np.mean(losses))

    def _heads(
        self, replay: Replay, batches: list[TrajectoryBatch], acting: int | None = None
    ) -> list[Heads]:
        heads = self.policy.sequences(
            torch.cat([batch.path for batch in batches]),
            replay.context,
            replay.descriptors,
            torch.cat([batch.preference for batch in batches]),
            acting,
        )
        logits = [*heads.logits.split(BATCH), *[heads.logits[:0]] * len(batches)]
        values, utilities = heads.values.split(BATCH), heads.utility.split(BATCH)
        return [Heads(*parts) for parts in zip(logits, values, utilities, strict=False)]

    @property
    def _drawn(self) -> bool:
        """Whether trajectories are drawn by their weight, which leaves none to apply."""
        s = self.settings
        return s.hindsight and s.weighting == "trajectory" and s.regression == "advantage"

    def _policy_batch(self, replay: Replay, rows: np.ndarray) -> TrajectoryBatch:
        if self.settings.hindsight:
            preferences = sample_dirichlet(BATCH, replay.objectives, self.rng)
        if self._drawn:
            index = self._draw_by_weight(replay, rows, preferences)
        else:
            index = self.rng.choice(rows, size=BATCH)
        if not self.settings.hindsight:
            preferences = replay.preferences[index]
        return replay.batch(index, preferences)

    def _policy_loss(
        self, replay: Replay, rows: np.ndarray, batch: TrajectoryBatch, heads: Heads
    ) -> Tensor:
        logits = torch.where(batch.masks, heads.logits, torch.tensor(MASKED))
        actions = batch.path.clamp(max=logits.shape[-1] - 1)  # padding is not a step
        log_prob = torch.log_softmax(logits, dim=-1).gather(2, actions[..., None]).squeeze(2)
        weight = batch.steps.float()
        if not self._drawn and self.settings.regression == "advantage":
            weight = weight * self._advantage_weights(replay, rows, batch, heads)
        return -(log_prob * weight).sum() / weight.sum().clamp(min=1e-6)

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
        preferences = batch.preference.numpy().astype(np.float64)
        utility = scalarise(batch.vector.numpy(), preferences, self.kind)
        every = scalarise(replay.vectors[rows][None], preferences[:, None], self.kind)
        scale = np.maximum(every.std(axis=1), 1e-6) * self.settings.temperature
        baseline = heads.utility.detach()
        if self.settings.weighting == "trajectory":
            baseline = baseline[:, :1].expand_as(baseline)
        advantage = torch.as_tensor(utility, dtype=torch.float32)[:, None] - baseline
        scaled = advantage / torch.as_tensor(scale, dtype=torch.float32)[:, None]
        return scaled.exp().clamp(max=LARGEST_WEIGHT)

    def _critic_batches(self, replay: Replay, rows: np.ndarray) -> list[TrajectoryBatch]:
        """Evaluated trajectories on the preferences that acted, and on hindsight ones."""
        evaluated = rows[~replay.imagined[rows]]
        if len(evaluated) == 0:
            return []
        index = self.rng.choice(evaluated, size=BATCH)
        acted = replay.preferences[index]
        hindsight = self.settings.hindsight
        other = sample_dirichlet(BATCH, replay.objectives, self.rng) if hindsight else acted
        return [replay.batch(index, acted), replay.batch(index, other)]

    def _critic_losses(
        self, batches: list[TrajectoryBatch], heads: list[Heads]
    ) -> tuple[Tensor, Tensor]:
        acted, other = batches
        steps = acted.steps.float()
        target = acted.vector[:, None].expand_as(heads[0].values)
        value = huber_loss(heads[0].values, target, reduction="none").mean(-1)
        utility = torch.as_tensor(
            scalarise(other.vector.numpy(), other.preference.numpy(), self.kind),
            dtype=torch.float32,
        )
        predicted = heads[1].utility
        error = huber_loss(predicted, utility[:, None].expand_as(predicted), reduction="none")
        return (value * steps).sum() / steps.sum(), (error * steps).sum() / steps.sum()

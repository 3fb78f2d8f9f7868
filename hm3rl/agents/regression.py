"""Advantage-weighted regression from replayed trajectories, and the training of both critics.

Relabelling a trajectory with another preference changes its utility, never its actions: a path that
was poor under the preference that made it may be the best known under another (hindsight). Where
weights say what a trajectory is worth under a preference, any preference may be drawn for it;
behaviour cloning has no weights, so there the preference must be one that the trajectory serves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hm3rl.agents.critics import CriticTrainer
from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.preference_policy import Heads
from hm3rl.agents.replay import Replay, TrajectoryBatch
from hm3rl.agents.served import ServedPreferences
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.objectives.utility import Utility

BATCH = 48
HELD_OUT_BATCHES = 4
LARGEST_WEIGHT = 20.0


class Regression:
    """Supervised updates of a `PathPolicy`.

    Each update has two parts. The policy imitates trajectories weighted by exp(A / temperature)
    (Peng et al., 2019). With `weighting=trajectory` and hindsight the weights are normalised over
    the whole replay for each sampled preference, so the trajectories are drawn by weight and the
    baseline cancels; otherwise A = u - V_u, for the first state (trajectory) or for each state
    (step). With `regression=iql`, A = Q - V_u at each state (`CriticTrainer`). With
    `regression=cloning` every trajectory counts alike and is relabelled, under hindsight, with a
    preference that it serves well for what else is in the replay (`_served`); otherwise it keeps
    the preference that made it. The critics learn from evaluated trajectories only (method.md,
    section 4).

    Args:
        policy: The networks.
        settings: Weighting, temperature, hindsight, step size.
        served: Preferences for hindsight.
        utility: What a path is worth.
        rng: Source of randomness.
        objectives: Names of the objectives, for the losses' names; default their numbers.
    """

    def __init__(
        self,
        policy: PathPolicy,
        settings: HM3AgentSettings,
        served: ServedPreferences,
        utility: Utility,
        rng: np.random.Generator,
        objectives: Sequence[str] = (),
    ) -> None:
        self.policy = policy
        self.settings = settings
        self.served = served
        self.utility = utility
        self.rng = rng
        self.critics = CriticTrainer(policy, settings, utility, objectives)
        self.optimiser = torch.optim.Adam(policy.parameters(), lr=settings.pretrain_rate)

    def step(
        self, replay: Replay, rows: np.ndarray, teacher: Replay | None = None
    ) -> dict[str, float]:
        """One gradient step on trajectories `rows` of the replay; returns the losses.

        The three losses share one pass of the networks over three batches.

        Args:
            replay: The trajectories.
            rows: Which of them may be used.
            teacher: If given, the policy imitates this pool's best path under each preference
                instead of the replay's.
        """
        self.policy.set_training_mode(True)
        self.policy.freeze(replay.context, replay.descriptors)
        acting = self._policy_batch(replay, rows) if teacher is None else self._lesson(teacher)
        batches = [acting, *self._critic_batches(replay, rows)]
        heads = self._heads(replay, batches, acting=BATCH)
        weights = self._weights(replay, rows, acting, heads[0], drawn=teacher is not None)
        loss = self._policy_loss(acting, heads[0], weights)
        report = {"regression/policy": loss.item()}
        if len(batches) == 3:
            critic, losses = self.critics.loss(replay, batches[1:], heads[1:])
            loss = loss + 0.5 * critic
            report.update(losses)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimiser.step()
        self.critics.follow()
        self.policy.set_training_mode(False)
        return report

    def distil(self, replay: Replay, teacher: Replay, steps: int) -> dict[str, float]:
        """Teach the policy a pool's best path under every preference, with a falling step size."""
        losses: dict[str, float] = {}
        rows = np.arange(len(replay))
        for step in range(steps):
            self.optimiser.param_groups[0]["lr"] = self.settings.pretrain_rate * (1 - step / steps)
            losses = self.step(replay, rows, teacher)
        self.optimiser.param_groups[0]["lr"] = self.settings.pretrain_rate
        return losses

    def warm_up(self, replay: Replay, steps: int) -> None:
        """Train both critics alone; encoder and policy stay as they are."""
        rows = np.arange(len(replay))
        optimiser = torch.optim.Adam(self.policy.critics(), lr=self.settings.pretrain_rate)
        for _ in range(steps):
            batches = self._critic_batches(replay, rows)
            if not batches:
                return
            heads = self._heads(replay, batches, acting=0)
            loss, _ = self.critics.loss(replay, batches, heads)
            self.policy.zero_grad()
            loss.backward()
            optimiser.step()
            self.critics.follow()

    def held_out_loss(self, replay: Replay, rows: np.ndarray, seed: int = 0) -> float:
        """Policy loss on trajectories not trained on, with the same preferences every time."""
        own, self.rng = self.rng, np.random.default_rng(seed)
        with torch.no_grad():
            batches = [self._policy_batch(replay, rows) for _ in range(HELD_OUT_BATCHES)]
            heads = self._heads(replay, batches)
            losses = [
                self._policy_loss(b, h, self._weights(replay, rows, b, h)).item()
                for b, h in zip(batches, heads, strict=True)
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
        none = heads.logits[:0]
        actions = [*heads.logits.split(BATCH)] if len(heads.logits) else []
        actions += [none] * (len(batches) - len(actions))
        rest = (part.split(BATCH) for part in heads[1:])
        return [Heads(*parts) for parts in zip(actions, *rest, strict=True)]

    @property
    def _drawn(self) -> bool:
        """Whether trajectories are drawn by their weight, which leaves none to apply."""
        s = self.settings
        return s.hindsight and s.weighting == "trajectory" and s.regression == "advantage"

    def _policy_batch(self, replay: Replay, rows: np.ndarray) -> TrajectoryBatch:
        if self.settings.hindsight and self.settings.regression == "cloning":
            index = self.rng.choice(rows, size=BATCH)
            return replay.batch(index, self._served(replay, rows, index))
        if self.settings.hindsight:
            preferences = self.served.draw(BATCH, self.rng)
        if self._drawn:
            index = self._draw_by_weight(replay, rows, preferences)
        else:
            index = self.rng.choice(rows, size=BATCH)
        if not self.settings.hindsight:
            preferences = replay.preferences[index]
        return replay.batch(index, preferences)

    def _lesson(self, teacher: Replay) -> TrajectoryBatch:
        """The pool's best path under each of a batch of preferences."""
        preferences = self.served.draw(BATCH, self.rng)
        worth = self.utility(teacher.vectors[None], teacher.lengths, preferences[:, None])
        return teacher.batch(worth.argmax(axis=1), preferences)

    def _policy_loss(self, batch: TrajectoryBatch, heads: Heads, weights: Tensor) -> Tensor:
        loss = self.policy.imitation(heads.logits, batch.path, batch.masks)
        return (loss * weights).sum() / weights.sum().clamp(min=1e-6)

    def _weights(
        self,
        replay: Replay,
        rows: np.ndarray,
        batch: TrajectoryBatch,
        heads: Heads,
        drawn: bool = False,
    ) -> Tensor:
        """Weight of each step of the batch, shape (B, T)."""
        steps = batch.steps.float()
        if drawn or self._drawn or self.settings.regression == "cloning":
            return steps
        preferences = batch.preference.numpy().astype(np.float64)
        every = self.utility(replay.vectors[rows][None], replay.lengths[rows], preferences[:, None])
        scale = np.maximum(every.std(axis=1), 1e-6) * self.settings.temperature
        advantage = self._advantages(replay, batch, heads)
        scaled = advantage / torch.as_tensor(scale, dtype=torch.float32)[:, None]
        return steps * scaled.exp().clamp(max=LARGEST_WEIGHT)

    def _served(self, replay: Replay, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """For each trajectory a preference that it serves, shape (len(index), K).

        Relabelling by inverse reinforcement learning (Eysenbach et al., "Rewriting history with
        inverse RL", NeurIPS 2020, arXiv 2002.11089, HIPI-BC): drawn from q(lambda | tau), which is
        proportional to p(lambda) exp(u_lambda(tau) - log Z(lambda)), Z the sum over all
        trajectories. So what counts is how a trajectory does among the others, and a preference
        under which everything is worth much attracts no more of them than another.
        """
        preferences = self.served.draw(BATCH, self.rng)
        worth = self._worth(replay, rows, preferences)
        own = self._worth(replay, rows, preferences, index)
        top = worth.max(axis=1, keepdims=True)
        logits = own - top - np.log(np.exp(worth - top).sum(axis=1, keepdims=True))
        noise = self.rng.gumbel(size=logits.shape)
        return np.asarray(preferences[(logits + noise).argmax(axis=0)])

    def _worth(
        self,
        replay: Replay,
        rows: np.ndarray,
        preferences: np.ndarray,
        of: np.ndarray | None = None,
    ) -> np.ndarray:
        """Trajectories' u / (temperature * spread over `rows`) under P preferences, (P, n).

        Args:
            replay: The trajectories.
            rows: Which of them set the spread.
            preferences: Shape (P, K).
            of: Which of them are asked for; default `rows`.
        """

        def utilities(which: np.ndarray) -> np.ndarray:
            return self.utility(
                replay.vectors[which][None], replay.lengths[which], preferences[:, None]
            )

        every = utilities(rows)
        spread = np.maximum(every.std(axis=1, keepdims=True), 1e-6)
        asked = every if of is None else utilities(of)
        return asked / (self.settings.temperature * spread)

    def _draw_by_weight(
        self, replay: Replay, rows: np.ndarray, preferences: np.ndarray
    ) -> np.ndarray:
        # Gumbel-max: one draw from softmax(u / (temperature * spread)) for each preference.
        logits = self._worth(replay, rows, preferences)
        noise = self.rng.gumbel(size=logits.shape)
        return np.asarray(rows[(logits + noise).argmax(axis=1)])

    def _advantages(self, replay: Replay, batch: TrajectoryBatch, heads: Heads) -> Tensor:
        baseline = heads.utility.detach()
        if self.settings.regression == "iql":
            return self.critics.action_values(replay, batch) - baseline
        advantage = self.critics.returns(batch) - baseline
        if self.settings.weighting == "trajectory":
            return advantage[:, :1].expand_as(advantage)
        return advantage

    def _critic_batches(self, replay: Replay, rows: np.ndarray) -> list[TrajectoryBatch]:
        """Evaluated trajectories on the preferences that acted, and on hindsight ones."""
        evaluated = rows[~replay.model_generated[rows]]
        if len(evaluated) == 0:
            return []
        index = self.rng.choice(evaluated, size=BATCH)
        acted = replay.preferences[index]
        other = self.served.draw(BATCH, self.rng) if self.settings.hindsight else acted
        return [replay.batch(index, acted), replay.batch(index, other)]

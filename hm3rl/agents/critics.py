"""How the two state critics learn from replayed trajectories.

V(S, c, lambda), the vector baseline of PPO, learns on the preference that acted. V_u(S, c, lambda')
learns on hindsight preferences, either the mean return (the baseline of advantage-weighted
regression) or, for implicit Q-learning, an expectile of the action values.

With `agent.likelihood_weight` V's features also have to tell the likelihoods of the finished path,
an auxiliary task (Jaderberg et al., 2017): a likelihood moves where a score of 64 items does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.preference_policy import Heads
from hm3rl.agents.replay import Replay, TrajectoryBatch
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.objectives.utility import Utility

FOLLOW = 0.05
"""Share by which IQL's target network moves towards the networks at each step."""


class CriticTrainer:
    """Losses of V and V_u.

    Discrete implicit Q-learning (Kostrikov et al., 2022, equations (5) to (7)) fits V to the
    expectile tau of Q(S, A) over the actions in the data, E[|tau - 1(Q < V)| (Q - V)^2], and Q to
    r + gamma V(S'). Building a path is deterministic and its only reward comes with the last action
    (or in equal parts), so Q needs no network of its own: it is the reward plus gamma times a
    slowly following copy of V_u at the known next state.

    Args:
        policy: The networks.
        settings: Which critic loss; discount, reward and expectile.
        utility: What a path is worth.
        objectives: Names of the objectives, for V's loss on each; default their numbers.
    """

    def __init__(
        self,
        policy: PathPolicy,
        settings: HM3AgentSettings,
        utility: Utility,
        objectives: Sequence[str] = (),
    ) -> None:
        self.policy = policy
        self.objectives = tuple(objectives) or tuple(map(str, range(policy.objectives)))
        self.settings = settings
        self.utility = utility
        self._target: PathPolicy | None = None

    def loss(
        self, replay: Replay, batches: list[TrajectoryBatch], heads: list[Heads]
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum of all losses, and each; V's and the likelihoods' also by objective.

        Args:
            replay: Lends context and descriptors.
            batches: Trajectories on the preferences that acted, and on hindsight ones.
            heads: The networks' heads on both.
        """
        acted, other = batches
        steps = acted.steps.float()
        cost = self.settings.length_cost * acted.lengths[:, None]
        share = self._share(acted)[..., None]
        target = share * (acted.vector - cost)[:, None]
        value = huber_loss(heads[0].values, target, reduction="none")
        predicted = heads[1].utility
        if self.settings.regression == "iql":
            difference = self.action_values(replay, other) - predicted
            tau = self.settings.expectile
            error = torch.where(difference < 0, 1.0 - tau, tau) * difference**2
        else:
            error = huber_loss(predicted, self.returns(other), reduction="none")
        by_objective = (value * steps[..., None]).sum(dim=(0, 1)) / steps.sum()
        value_loss, utility_loss = by_objective.mean(), (error * steps).sum() / steps.sum()
        report = {"regression/value": value_loss.item(), "regression/utility": utility_loss.item()}
        names = (f"regression/value/{name}" for name in self.objectives)
        report.update(zip(names, by_objective.tolist(), strict=True))
        loss = value_loss + utility_loss
        if self.settings.likelihood_weight > 0:
            errors = self._likelihood_errors(acted, heads[0].likelihoods)
            loss = loss + self.settings.likelihood_weight * errors.mean()
            names = (f"regression/likelihood/{name}" for name in self.objectives)
            report.update(zip(names, errors.tolist(), strict=True))
        return loss, report

    def _likelihood_errors(self, batch: TrajectoryBatch, predicted: Tensor) -> Tensor:
        """Huber losses of the paths' likelihoods as told by each of their states, shape (K,)."""
        known = ~batch.likelihood.isnan().any(dim=1)
        steps = batch.steps[known].float()
        target = batch.likelihood[known][:, None].expand_as(predicted[known])
        error = huber_loss(predicted[known], target, reduction="none")
        return (error * steps[..., None]).sum(dim=(0, 1)) / steps.sum().clamp(min=1.0)

    def _share(self, batch: TrajectoryBatch) -> Tensor:
        return batch.to_go(self.settings.gamma, self.settings.reward == "spread")

    def _utilities(self, batch: TrajectoryBatch) -> Tensor:
        worth = self.utility(
            batch.vector.numpy(), batch.lengths.numpy(), batch.preference.numpy().astype(float)
        )
        return torch.as_tensor(worth, dtype=torch.float32)[:, None]

    def returns(self, batch: TrajectoryBatch) -> Tensor:
        """What is still paid from each step on, shape (B, T)."""
        return self._share(batch) * self._utilities(batch)

    @torch.no_grad()
    def action_values(self, replay: Replay, batch: TrajectoryBatch) -> Tensor:
        """Q of the actions taken: reward plus gamma V_u of the next state, shape (B, T)."""
        if self._target is None:
            self._target = self.policy.twin()
        after = self._target.sequences(
            batch.path, replay.context, replay.descriptors, batch.preference, acting=0
        ).utility
        after = torch.cat([after[:, 1:], torch.zeros_like(after[:, :1])], dim=1)
        count = batch.steps.sum(dim=1, keepdim=True)
        last = torch.arange(batch.path.shape[1])[None] == count - 1
        paid = last.float() if self.settings.reward == "terminal" else 1.0 / count.float()
        return paid * self._utilities(batch) + self.settings.gamma * after * ~last

    @torch.no_grad()
    def follow(self) -> None:
        """Move the target network of IQL a little towards the networks."""
        if self._target is None:
            return
        for slow, fast in zip(self._target.parameters(), self.policy.parameters(), strict=True):
            slow.lerp_(fast, FOLLOW)

"""The online phase: most evaluations go to screened paths, a share to plain rollouts of the policy.

PPO learns from unscreened rollouts only. Screened paths are not samples of the policy; they enter
the replay and reach the policy through regression (method.md, section 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from hm3rl.agents.decoding import roll_out
from hm3rl.agents.offline import behaviour_batch
from hm3rl.agents.ppo import kl_anchor
from hm3rl.agents.proposals import screened_batch
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics

if TYPE_CHECKING:
    from hm3rl.agents.agent import MergeAgent


class OnlineLoop:
    """Spends an online budget in batches.

    Args:
        agent: Whose networks, knowledge and generators are used.
    """

    def __init__(self, agent: MergeAgent) -> None:
        self.agent = agent
        self.settings = agent.settings
        self._owed = 0.0

    def run(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate exactly `budget` new paths, unless the space has fewer."""
        agent, settings = self.agent, self.settings
        if budget <= 0:
            return
        agent.ppo.fresh_optimiser()
        agent.regression.warm_up(agent.replay, settings.critic_warm_up)
        agent.ppo.anchor = self._anchor()
        spent = 0
        while spent < budget:
            left = budget - spent
            agent.refit()
            if self._rollout_turn(left):
                charged = agent.roll_out_real(evaluate)
                self._owed -= settings.rollouts
                kind = "rollouts"
            else:
                charged = self._screened(min(settings.batch, left), evaluate)
                kind = "screened"
            if charged == 0:
                charged, kind = self._rescue(min(settings.batch, left), evaluate), "rescued"
                if charged == 0:
                    break
            spent += charged
            self._owed += charged * settings.screening.explore_share
            # PPO's own updates are held by the anchor, whichever was chosen.
            regress = kind != "rollouts" or settings.anchor == "replay"
            losses = self._regress(settings.replay_steps) if regress else {}
            log({**losses, f"online/{kind}": float(charged)})
        agent.refit()
        agent.distil(log)

    def _rollout_turn(self, left: int) -> bool:
        if left < self.settings.rollouts:
            return False
        screening = self.settings.screening
        return not (screening.enabled and self.agent.model.ready) or (
            self._owed >= self.settings.rollouts
        )

    def _screened(self, count: int, evaluate: EvaluatePaths) -> int:
        agent = self.agent
        if self.settings.screening.enabled and agent.model.ready:
            return screened_batch(agent, count, evaluate, agent.policy)
        goals = self._thin(4 * count)
        rows = roll_out(agent.policy, agent.space, goals, 1.0, agent.rng)
        fresh = agent.knowledge.fresh(rows, count)
        first = {row.tobytes(): i for i, row in reversed(list(enumerate(rows)))}
        own = goals[[first[row.tobytes()] for row in fresh]]
        return agent.acquire(fresh, own, evaluate)

    def _rescue(self, count: int, evaluate: EvaluatePaths) -> int:
        """Behaviour paths, when nothing new came out otherwise."""
        agent = self.agent
        rows, goals = behaviour_batch(
            agent.knowledge, agent.goals, count, agent.settings.length_cost, agent.rng
        )
        return agent.acquire(rows, goals, evaluate)

    def _regress(self, steps: int) -> dict[str, float]:
        agent = self.agent
        rows = np.arange(len(agent.replay))
        losses: dict[str, float] = {}
        if len(rows):
            for _ in range(steps):
                losses = agent.regression.step(agent.replay, rows)
        return losses

    def _thin(self, n: int) -> np.ndarray:
        knowledge = self.agent.knowledge
        return self.agent.goals.thin(knowledge.vectors[knowledge.front()], n, self.agent.rng)

    def _anchor(self) -> Callable[[], None] | None:
        agent, settings = self.agent, self.settings
        if settings.anchor == "replay":
            return lambda: void(self._regress(settings.replay_steps))
        if settings.anchor == "none" or len(agent.replay) == 0:
            return None
        reference = agent.policy.twin()

        def draw() -> tuple[object, torch.Tensor, torch.Tensor]:
            index = agent.rng.integers(len(agent.replay), size=settings.rollouts * 4)
            goals = agent.goals.draw(len(index), agent.rng)
            batch = agent.replay.batch(index, goals)
            return batch, agent.replay.context, agent.replay.descriptors

        return kl_anchor(
            agent.policy, reference, draw, settings.replay_steps, settings.pretrain_rate
        )


def void(_: object) -> None:
    """Drop a result."""

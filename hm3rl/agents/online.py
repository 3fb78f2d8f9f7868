"""The online phase: most evaluations go to screened paths, a share to plain rollouts of the policy.

PPO learns from unscreened rollouts only. Screened paths are not samples of the policy; they enter
the replay and reach the policy through regression (method.md, section 5).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hm3rl.agents.batches import POLICY, Proposals
from hm3rl.agents.decoding import roll_out
from hm3rl.agents.model_generated import distil, refit
from hm3rl.agents.offline import behaviour_batch
from hm3rl.agents.ppo import kl_anchor
from hm3rl.agents.proposals import screened
from hm3rl.agents.state import AgentState
from hm3rl.surrogate.dataset import EvaluatePaths, LogMetrics


class OnlineLoop:
    """Spends an online budget in batches.

    Args:
        state: Whose networks, data and generators are used.
    """

    def __init__(self, state: AgentState) -> None:
        self.state = state
        self.settings = state.settings
        self._owed = 0.0

    def run(self, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
        """Evaluate exactly `budget` new paths, unless the space has fewer."""
        state, settings = self.state, self.settings
        if budget <= 0:
            return
        state.ppo.fresh_optimiser()
        state.regression.warm_up(state.replay, settings.critic_warm_up)
        state.ppo.anchor = self._anchor()
        spent = stale = 0
        while spent < budget:
            left = budget - spent
            refit(state)
            if self._rollout_turn(left):
                used = state.roll_out_real(evaluate)
                self._owed -= settings.rollouts
                kind = "rollouts"
            else:
                used = self._screened(min(settings.batch, left), evaluate)
                kind = "screened"
            if used == 0 and stale < settings.stale:
                stale += 1
                continue
            if used == 0 and settings.stale == 0:
                used, kind = self._rescue(min(settings.batch, left), evaluate), "rescued"
            if used == 0:
                break
            stale = 0
            spent += used
            self._owed += used * settings.acquisition.explore_share
            # PPO's own updates are held by the anchor, whichever was chosen.
            regress = kind != "rollouts" or settings.anchor == "replay"
            losses = self._regress(settings.replay_steps) if regress else {}
            log({**losses, f"online/{kind}": float(used)})
        refit(state)
        distil(state, log)

    def _rollout_turn(self, left: int) -> bool:
        if left < self.settings.rollouts:
            return False
        acquisition = self.settings.acquisition
        return not (acquisition.enabled and self.state.surrogate.ready) or (
            self._owed >= self.settings.rollouts
        )

    def _screened(self, count: int, evaluate: EvaluatePaths) -> int:
        state = self.state
        if self.settings.acquisition.enabled and state.surrogate.ready:
            return state.evaluate(screened(state, count, state.policy), evaluate)
        preferences = self._sparse(4 * count)
        rows = roll_out(state.policy, state.space, preferences, 1.0, state.rng)
        made = Proposals.of(rows, preferences, POLICY)
        return state.evaluate(made.at(state.dataset.fresh_at(rows, count)), evaluate)

    def _rescue(self, count: int, evaluate: EvaluatePaths) -> int:
        """Behaviour paths, when nothing new came out otherwise."""
        state = self.state
        made = behaviour_batch(
            state.dataset, state.served, count, state.settings.length_cost, state.rng
        )
        return state.evaluate(made, evaluate)

    def _regress(self, steps: int) -> dict[str, float]:
        state = self.state
        rows = np.arange(len(state.replay))
        losses: dict[str, float] = {}
        if len(rows):
            for _ in range(steps):
                losses = state.regression.step(state.replay, rows)
        return losses

    def _sparse(self, n: int) -> np.ndarray:
        return self.state.served.sparse(self.state.front, n, self.state.rng)

    def _anchor(self) -> Callable[[], None] | None:
        state, settings = self.state, self.settings
        if settings.anchor == "replay":
            return lambda: void(self._regress(settings.replay_steps))
        if settings.anchor == "none" or len(state.replay) == 0:
            return None
        reference = state.policy.twin()

        def draw() -> tuple[object, torch.Tensor, torch.Tensor]:
            index = state.rng.integers(len(state.replay), size=settings.rollouts * 4)
            preferences = state.served.draw(len(index), state.rng)
            batch = state.replay.batch(index, preferences)
            return batch, state.replay.context, state.replay.descriptors

        return kl_anchor(
            state.policy, reference, draw, settings.replay_steps, settings.pretrain_rate
        )


def void(_: object) -> None:
    """Drop a result."""

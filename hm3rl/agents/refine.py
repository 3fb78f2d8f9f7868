"""Searching on for one preference with trained networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hm3rl.agents.behaviour import elites, variations
from hm3rl.agents.decoding import roll_out
from hm3rl.surrogate.acquisition import choose_by_utility
from hm3rl.surrogate.dataset import EvaluatePaths
from hm3rl.surrogate.local_search import climb

if TYPE_CHECKING:
    from hm3rl.agents.agent import MergeAgent

PROPOSALS = 400
"""Paths of each kind that compete for one batch."""


def refine_for(
    agent: MergeAgent, evaluate: EvaluatePaths, budget: int, preference: np.ndarray
) -> None:
    """Spend evaluations on one preference: the paths with the best expected improvement of u.

    Policy samples, variations of the best paths and ascents under F-hat compete; the networks are
    not trained on.

    Args:
        agent: A trained agent; it learns the outcomes.
        evaluate: Scores new paths and charges the budget.
        budget: Most paths to evaluate; fewer if no new path is found.
        preference: Shape (K,), on the simplex.
    """
    spent = 0
    goals = np.tile(np.asarray(preference, dtype=np.float64), (PROPOSALS, 1))
    few = goals[:8]
    while spent < budget:
        agent.refit()
        starts = elites(agent.knowledge, few, agent.utility)
        rows = np.concatenate(
            [
                roll_out(agent.policy, agent.space, goals, 1.0, agent.rng),
                variations(agent.knowledge, goals, agent.utility, agent.rng, mixing=0.1),
                climb(agent.model, starts, few, agent.utility, agent.rng),
            ]
        )
        fresh = agent.knowledge.fresh(rows)
        if len(fresh) == 0:
            return
        samples = agent.model.samples(fresh, agent.settings.screening.samples, agent.rng)
        count = min(agent.settings.batch, budget - spent)
        lengths = agent.space.lengths(fresh)[:, None]
        utilities = agent.utility(samples[:, :, None, :], lengths, goals[:1])
        chosen = choose_by_utility(utilities, agent.best_known(goals[:1]), count)
        spent += agent.acquire(fresh[chosen], goals[: len(chosen)], evaluate)

"""Searching on for one preference with trained networks."""

from __future__ import annotations

import numpy as np

from hm3rl.agents.behaviour import elites, variations
from hm3rl.agents.decoding import roll_out
from hm3rl.agents.model_generated import refit
from hm3rl.agents.state import AgentState
from hm3rl.surrogate.acquisition import choose_by_utility
from hm3rl.surrogate.dataset import EvaluatePaths
from hm3rl.surrogate.local_search import climb

PROPOSALS = 400
"""Paths of each kind that compete for one batch."""


def refine_for(
    state: AgentState, evaluate: EvaluatePaths, budget: int, preference: np.ndarray
) -> None:
    """Spend evaluations on one preference: the paths with the best expected improvement of u.

    Policy samples, variations of the best paths and ascents under the surrogate compete;
    the networks are not trained on.

    Args:
        state: Of a trained agent; it observes the outcomes.
        evaluate: Scores new paths and charges the budget.
        budget: Most paths to evaluate; fewer if no new path is found.
        preference: Shape (K,), on the simplex.
    """
    spent = 0
    goals = np.tile(np.asarray(preference, dtype=np.float64), (PROPOSALS, 1))
    few = goals[:8]
    while spent < budget:
        refit(state)
        starts = elites(state.dataset, few, state.utility)
        rows = np.concatenate(
            [
                roll_out(state.policy, state.space, goals, 1.0, state.rng),
                variations(state.dataset, goals, state.utility, state.rng, mixing=0.1),
                climb(state.surrogate, starts, few, state.utility, state.rng),
            ]
        )
        fresh = state.dataset.fresh(rows)
        if len(fresh) == 0:
            return
        samples = state.surrogate.samples(fresh, state.settings.screening.samples, state.rng)
        count = min(state.settings.batch, budget - spent)
        lengths = state.space.lengths(fresh)[:, None]
        utilities = state.utility(samples[:, :, None, :], lengths, goals[:1])
        chosen = choose_by_utility(utilities, state.best_known(goals[:1]), count)
        spent += state.evaluate(fresh[chosen], goals[: len(chosen)], evaluate)

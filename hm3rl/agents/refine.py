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
    while spent < budget:
        refit(state)
        rows = chosen_for(state, min(state.settings.batch, budget - spent), preference)
        if len(rows) == 0:
            return
        spent += state.evaluate(rows, np.tile(preference, (len(rows), 1)), evaluate)


def chosen_for(state: AgentState, count: int, preference: np.ndarray) -> np.ndarray:
    """New paths with the best expected improvement of u for one preference.

    Args:
        state: Of a trained agent.
        count: Most paths.
        preference: Shape (K,), on the simplex.

    Returns:
        Rows, shape (n, horizon); none if no new path is found. Without a surrogate, whatever new
        paths the policy draws first.
    """
    preferences = np.tile(np.asarray(preference, dtype=np.float64), (PROPOSALS, 1))
    if not state.surrogate.ready:
        drawn = roll_out(state.policy, state.space, preferences, 1.0, state.rng)
        return state.dataset.fresh(drawn)[:count]
    few = preferences[:8]
    starts = elites(state.dataset, few, state.utility)
    rows = np.concatenate(
        [
            roll_out(state.policy, state.space, preferences, 1.0, state.rng),
            variations(state.dataset, preferences, state.utility, state.rng, mixing=0.1),
            climb(state.surrogate, starts, few, state.utility, state.rng),
        ]
    )
    fresh = state.dataset.fresh(rows)
    if len(fresh) == 0:
        return fresh
    samples = state.surrogate.samples(fresh, state.settings.acquisition.samples, state.rng)
    lengths = state.space.lengths(fresh)[:, None]
    utilities = state.utility(samples[:, :, None, :], lengths, preferences[:1])
    return fresh[choose_by_utility(utilities, state.best_known(preferences[:1]), count)]

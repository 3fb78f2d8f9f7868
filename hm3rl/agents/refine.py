"""Searching on for one preference with trained networks."""

from __future__ import annotations

import numpy as np

from hm3rl.agents.batches import CLIMB, POLICY, VARIATION, Proposals
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
        made = chosen_for(state, min(state.settings.batch, budget - spent), preference)
        if len(made.tokens) == 0:
            return
        spent += state.evaluate(made, evaluate)


def chosen_for(state: AgentState, count: int, preference: np.ndarray) -> Proposals:
    """New paths with the best expected improvement of u for one preference.

    Args:
        state: Of a trained agent.
        count: Most paths.
        preference: Shape (K,), on the simplex.

    Returns:
        Distinct new paths; none if none is found. Without a surrogate, whatever new paths the
        policy draws first.
    """
    preferences = np.tile(np.asarray(preference, dtype=np.float64), (PROPOSALS, 1))
    if not state.surrogate.ready:
        drawn = roll_out(state.policy, state.space, preferences, 1.0, state.rng)
        made = Proposals.of(drawn, preferences, POLICY)
        return made.at(state.dataset.fresh_at(drawn, count))
    few = preferences[:8]
    starts = elites(state.dataset, few, state.utility)
    sampled = roll_out(state.policy, state.space, preferences, 1.0, state.rng)
    varied = variations(state.dataset, preferences, state.utility, state.rng, mixing=0.1)
    tops = climb(state.surrogate, starts, few, state.utility, state.rng)
    made = Proposals.joined(
        [
            Proposals.of(sampled, preferences, POLICY),
            Proposals.of(varied, preferences, VARIATION),
            Proposals.of(tops, few, CLIMB),
        ]
    )
    fresh = made.at(state.dataset.fresh_at(made.tokens))
    if len(fresh.tokens) == 0:
        return fresh
    samples = state.surrogate.samples(fresh.tokens, state.settings.acquisition.samples, state.rng)
    lengths = state.space.lengths(fresh.tokens)[:, None]
    utilities = state.utility(samples[:, :, None, :], lengths, preferences[:1])
    return fresh.at(choose_by_utility(utilities, state.best_known(preferences[:1]), count))

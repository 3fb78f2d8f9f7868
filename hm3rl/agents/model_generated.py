"""Paths that the surrogate thinks best: demonstrations for the policy, at no evaluation."""

from __future__ import annotations

import numpy as np

from hm3rl.agents.behaviour import elites
from hm3rl.agents.replay import Replay
from hm3rl.agents.state import AgentState
from hm3rl.surrogate.dataset import LogMetrics
from hm3rl.surrogate.local_search import climb

TARGETS = 256
LATTICE = 10
"""Preferences for which the surrogate's best paths are taught at the end, a lattice among them."""


def refit(state: AgentState) -> None:
    """Fit the surrogate to all evaluations and add to the replay what it thinks best."""
    if not state.fittable:
        return
    state.surrogate.fit(state.dataset)
    state.replay.forget_model_generated()
    if state.settings.model_generated == 0 or not state.surrogate.ready:
        return
    preferences = state.served.spread(state.settings.model_generated, 4, state.rng)
    rows = best_paths(state, preferences)
    state.replay.add(rows, state.cautious(rows), preferences, model_generated=True)


def best_paths(state: AgentState, preferences: np.ndarray) -> np.ndarray:
    """What the surrogate thinks best under each preference, starting from the best known.

    Args:
        state: Its surrogate is fitted.
        preferences: Shape (n, K).

    Returns:
        Rows, shape (n, horizon).
    """
    starts = elites(state.dataset, preferences, state.utility)
    return climb(state.surrogate, starts, preferences, state.utility, state.rng)


def distil(state: AgentState, log: LogMetrics) -> None:
    """Teach the policy the surrogate's best path for every preference, at no evaluation.

    The pool of what the surrogate thinks best under many preferences, and all that was evaluated,
    is ranked by the surrogate for each preference drawn, and the policy imitates the first. The
    last step of the online phase; needs `distil_steps`, and does nothing while the surrogate has
    seen too little.
    """
    if not state.surrogate.ready or state.settings.distil_steps == 0:
        return
    rows = best_paths(state, state.served.spread(TARGETS, LATTICE, state.rng))
    pool = np.unique(np.concatenate([rows, state.dataset.tokens]), axis=0)
    teacher = Replay(state.space, len(state.objectives))
    teacher.add(pool, state.cautious(pool), state.served.draw(len(pool), state.rng))
    losses = state.regression.distil(state.replay, teacher, state.settings.distil_steps)
    log({f"distil/{name.split('/')[1]}": value for name, value in losses.items()})

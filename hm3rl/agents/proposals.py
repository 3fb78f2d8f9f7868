"""Paths that compete for an evaluation, and the choice of those that get one."""

from __future__ import annotations

import numpy as np

from hm3rl.agents.batches import CLIMB, POLICY, VARIATION, Proposals
from hm3rl.agents.behaviour import beyond, elites, explorer, variations
from hm3rl.agents.decoding import roll_out
from hm3rl.agents.policy import PathPolicy
from hm3rl.agents.served import ServedPreferences
from hm3rl.agents.state import AgentState
from hm3rl.objectives.utility import Utility
from hm3rl.paths.variation import mutate
from hm3rl.surrogate.acquisition import choose_by_hypervolume, choose_by_utility
from hm3rl.surrogate.dataset import Dataset
from hm3rl.surrogate.local_search import climb
from hm3rl.surrogate.path_surrogate import PathSurrogate

TEMPERATURES = (0.7, 1.0, 1.5)

SHORTLIST = 192
"""Proposals that keep their place until the joint posterior is sampled."""

PREFERENCES = 64
"""Preferences under which shortlist and expected utility improvement are found."""


def propose(
    policy: PathPolicy | None,
    model: PathSurrogate,
    dataset: Dataset,
    served: ServedPreferences,
    utility: Utility,
    count: int,
    rng: np.random.Generator,
) -> Proposals:
    """Collect new paths: policy samples, variations of the best, and ascents under the surrogate.

    Args:
        policy: The networks; None while they are untrained.
        model: A fitted surrogate.
        dataset: Evaluated paths.
        served: The preferences served.
        utility: What a path is worth.
        count: Paths to make; known ones and duplicates are dropped from them.
        rng: Source of randomness.

    Returns:
        Distinct paths that are not known.
    """
    vectors = dataset.vectors
    front, explore = vectors[dataset.front()], explorer(dataset, utility.length_cost)
    parts = []
    if policy is not None:
        sampled = served.sparse(front, count // 4, rng)
        temperature = rng.choice(TEMPERATURES, size=len(sampled))
        rows = roll_out(policy, dataset.space, sampled, temperature, rng)
        parts.append(Proposals.of(rows, sampled, POLICY))
    varied = served.draw(count // 2, rng)
    rows = variations(dataset, varied, explore, rng, mixing=0.25)
    parts.append(Proposals.of(rows, varied, VARIATION))
    for climbed in (explore, utility):
        aims = served.sparse(front, max(8, count // 32), rng)
        tops = climb(model, elites(dataset, aims, climbed), aims, climbed, rng)
        around = np.stack([mutate(dataset.space, row, rng) for _ in range(2) for row in tops])
        parts += [
            Proposals.of(tops, aims, CLIMB),
            Proposals.of(around, np.tile(aims, (2, 1)), CLIMB),
        ]
    found = Proposals.joined(parts)
    return found.at(dataset.fresh_at(found.tokens))


def shortlist(model: PathSurrogate, tokens: np.ndarray, preferences: np.ndarray) -> np.ndarray:
    """Positions of the proposals with the best optimistic utility under any of many preferences.

    Args:
        model: A fitted surrogate.
        tokens: Rows of n paths.
        preferences: Preferences, shape (P, K).

    Returns:
        Sorted, at most `SHORTLIST`.
    """
    if len(tokens) <= SHORTLIST:
        return np.arange(len(tokens))
    mean, std = model.predict(tokens)
    optimistic = mean + std
    utility = Utility("tchebycheff", utopia=beyond(optimistic))
    utilities = utility(optimistic[:, None, :], 0, preferences[None])
    # Rank under the preference that likes a path most, so that every part of the front is kept.
    rank = (-utilities).argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    return np.sort(rank.min(axis=1).argsort(kind="stable")[:SHORTLIST])


def screened(state: AgentState, count: int, policy: PathPolicy | None) -> Proposals:
    """The most promising of many proposals.

    Args:
        state: Its surrogate is fitted.
        count: Most paths to choose.
        policy: Proposes paths too; None while it is untrained.

    Returns:
        Distinct paths that are not known; none if every proposal is.
    """
    acquisition, dataset = state.settings.acquisition, state.dataset
    found = propose(
        policy,
        state.surrogate,
        dataset,
        state.served,
        state.utility,
        acquisition.proposals,
        state.rng,
    )
    if len(found.tokens) == 0:
        return found
    preferences = state.served.draw(PREFERENCES, state.rng)
    keep = shortlist(state.surrogate, found.tokens, preferences)
    samples = state.surrogate.samples(found.tokens[keep], acquisition.samples, state.rng)
    if acquisition.function == "hypervolume":
        chosen = choose_by_hypervolume(samples, state.front, count)
    else:
        lengths = state.space.lengths(found.tokens[keep])[:, None]
        utilities = state.utility(samples[:, :, None, :], lengths, preferences)
        chosen = choose_by_utility(utilities, state.best_known(preferences), count)
    return found.at(keep[chosen])

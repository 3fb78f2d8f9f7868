"""The offline phase: behaviour paths are evaluated, then all networks are trained on them."""

from __future__ import annotations

import copy

import numpy as np

from hm3rl.agents.batches import BEHAVIOUR, Proposals
from hm3rl.agents.behaviour import explorer, variations
from hm3rl.agents.model_generated import refit
from hm3rl.agents.proposals import screened
from hm3rl.agents.regression import Regression
from hm3rl.agents.replay import Replay
from hm3rl.agents.served import ServedPreferences
from hm3rl.agents.state import AgentState
from hm3rl.surrogate.dataset import Dataset, EvaluatePaths, LogMetrics

HELD_OUT = 0.15
CHECK_EVERY = 25
LATTICE = 4
ATTEMPTS = 50
"""Rounds of drawing behaviour paths before a space counts as exhausted."""


def run_offline(state: AgentState, evaluate: EvaluatePaths, budget: int, log: LogMetrics) -> None:
    """Evaluate behaviour paths, then pre-train the surrogate, both critics and the policy.

    Args:
        state: The agent's.
        evaluate: Scores new paths and charges the budget.
        budget: Exactly so many new paths are evaluated (fewer only if the space has no more).
        log: Receives losses.
    """
    spent, settings = 0, state.settings
    while spent < budget:
        used = _behave(state, min(settings.batch, budget - spent), evaluate)
        if used == 0:
            break
        spent += used
    if state.fittable:
        refit(state)
        steps, patience = settings.pretrain_steps, settings.patience
        log(pretrain(state.regression, state.replay, steps, patience, state.rng))


def _behave(state: AgentState, count: int, evaluate: EvaluatePaths) -> int:
    """Evaluate a batch of behaviour paths; from the first fit on, a share is screened."""
    acquisition = state.settings.acquisition
    share = round(count * acquisition.offline_share) if acquisition.enabled else 0
    used = 0
    if share and state.fittable:
        state.surrogate.fit(state.dataset)
        if state.surrogate.ready:
            used = state.evaluate(screened(state, share, policy=None), evaluate)
    made = behaviour_batch(
        state.dataset, state.served, count - used, state.settings.length_cost, state.rng
    )
    return used + state.evaluate(made, evaluate)


def behaviour_batch(
    dataset: Dataset,
    served: ServedPreferences,
    count: int,
    length_cost: float,
    rng: np.random.Generator,
) -> Proposals:
    """New behaviour paths with their preferences, lattice points and Dirichlet draws by turns.

    Args:
        dataset: Evaluated paths.
        served: The preferences served.
        count: How many.
        length_cost: beta_1; the best known are chosen by Tchebycheff's utility less this.
        rng: Source of randomness.

    Returns:
        Distinct unknown paths; fewer than `count` only if the space seems exhausted.
    """
    k = dataset.objectives
    utility = explorer(dataset, length_cost)
    rows: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    taken: set[bytes] = set()
    for _ in range(ATTEMPTS):
        preferences = served.behaviour(count, LATTICE, rng)
        for row, preference in zip(
            variations(dataset, preferences, utility, rng), preferences, strict=True
        ):
            if len(rows) < count and row.tobytes() not in taken and not dataset.knows(row):
                taken.add(row.tobytes())
                rows.append(row)
                kept.append(preference)
        if len(rows) == count:
            break
    shape = (len(rows), dataset.space.horizon)
    tokens = np.array(rows, dtype=np.int64).reshape(shape)
    return Proposals.of(tokens, np.array(kept).reshape(-1, k), BEHAVIOUR)


def pretrain(
    regression: Regression, replay: Replay, steps: int, patience: int, rng: np.random.Generator
) -> dict[str, float]:
    """Train on the replay until held-out trajectories stop improving; keep the best weights.

    Args:
        regression: Does the updates.
        replay: All trajectories.
        steps: Most gradient steps.
        patience: Checks without improvement before stopping.
        rng: Splits the trajectories.

    Returns:
        Losses of the last step, the best held-out loss and the steps taken.
    """
    order = rng.permutation(len(replay))
    held = order[: int(HELD_OUT * len(order))]
    train = order[len(held) :]
    policy = regression.policy
    best, kept, failures, losses = np.inf, None, 0, {}
    step = 0
    while step < steps and failures < patience:
        losses = regression.step(replay, train)
        step += 1
        if len(held) and (step % CHECK_EVERY == 0 or step == steps):
            loss = regression.held_out_loss(replay, held)
            if loss < best - 1e-4:
                best, failures, kept = loss, 0, copy.deepcopy(policy.state_dict())
            else:
                failures += 1
    if kept is not None:
        policy.load_state_dict(kept)
    return {**losses, "offline/held_out": float(best), "offline/steps": float(step)}

"""The merging agent on SyntheticMerge, whose best path for any preference is known by Viterbi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents
from hm3rl.config.agents import AcquisitionSettings, HM3AgentSettings, LinearSettings
from hm3rl.config.schema import RunSettings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.paths.layer_path import LayerPath
from hm3rl.surrogate.dataset import Outcome

MEMBERS, OBJECTIVES = 4, 3


class Size(NamedTuple):
    """Size of an instance, and what may be spent on it.

    Attributes:
        layers: L.
        offline: Evaluations of the offline phase.
        online: Evaluations of the online phase.
    """

    layers: int
    offline: int
    online: int


SIZES = {"synthetic": Size(32, 500, 512), "synthetic_16": Size(16, 250, 256)}
"""The problem of the first table, and one of half its size and budget for the ablations."""

UNSEEN = 50
UNSEEN_SEED = 20261122
"""Of the unseen preferences: a stream no agent draws from."""

BEAM = 16

SURROGATE = LinearSettings()
"""The surrogate that deep paths need."""

FULL = HM3AgentSettings(batch=32)
"""The defaults, with larger batches."""

PLAIN = replace(
    FULL,
    acquisition=AcquisitionSettings(enabled=False, offline_share=0.0),
    model_generated=0,
    distil_steps=0,
)
"""Nothing chosen or taught by the surrogate: actor, critics and replay alone."""

NO_SCREENING = replace(FULL, acquisition=PLAIN.acquisition)

VARIANTS: dict[str, HM3AgentSettings] = {
    "full": FULL,
    "full_no_offline": FULL,
    "full_no_screening": NO_SCREENING,
    "plain": PLAIN,
    "plain_no_offline": PLAIN,
    "plain_no_hindsight": replace(PLAIN, hindsight=False),
    "plain_scalar_critic": replace(PLAIN, critic="scalar"),
    "plain_spread_reward": replace(PLAIN, reward="spread"),
    "plain_tchebycheff": replace(PLAIN, scalarisation="tchebycheff"),
    "plain_wolpertinger": replace(PLAIN, head="wolpertinger"),
    "plain_per_preference": replace(PLAIN, per_preference=True, preferences=10),
}
"""Settings by name; those of a name with `no_offline` spend the whole budget online."""


def build(
    problem: SyntheticProblem, settings: HM3AgentSettings, seed: int
) -> MergeAgent | SeparateAgents:
    """The agent, or one for each preference of a spread set."""
    names = tuple(f"f{k}" for k in range(problem.gains.shape[2]))
    run = RunSettings(agent=settings, surrogate=SURROGATE, seed=seed)
    if not settings.per_preference:
        return MergeAgent.fresh(problem.space(), names, run)
    goals = sample_dirichlet(settings.preferences, len(names), np.random.default_rng([seed, 3]))
    spaces = [problem.space()] * len(goals)
    return SeparateAgents.build(spaces, names, run, goals)


def run(
    size: Size, variant: str, seed: int, settings: HM3AgentSettings | None = None
) -> dict[str, float]:
    """One run: an instance of the problem and an agent, both from the seed.

    Args:
        size: Of the instance, and the budget.
        variant: One of `VARIANTS`.
        seed: Seed of the instance and of the agent.
        settings: Instead of the variant's, for quick tests.

    Returns:
        Means over the unseen preferences, 0 = random paths, 1 = Viterbi: `greedy` (the policy's
        greedy path), `decoded` (its samples improved and ranked by the surrogate), `archive` (the
        best path evaluated, which needs no agent), `offline/greedy` and `offline/archive` (after
        the offline phase); then the shares of preferences for which the policy is better than its
        archive, the evaluations charged and the agent's seconds.
    """
    layers, offline, online = size
    problem = SyntheticProblem.draw(layers, MEMBERS, OBJECTIVES, seed)
    agent = build(problem, settings or VARIANTS[variant], seed)
    goals = sample_dirichlet(UNSEEN, OBJECTIVES, np.random.default_rng([UNSEEN_SEED, seed]))
    evaluated: list[np.ndarray] = []

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        vectors = problem.score_paths(paths)
        evaluated.extend(vectors)
        return [Outcome(vector, -vector) for vector in vectors]

    def scaled(utilities: np.ndarray) -> np.ndarray:
        pairs = zip(utilities, goals, strict=True)
        return np.array([problem.normalised(float(u), goal) for u, goal in pairs])

    def archive() -> np.ndarray:
        return scaled((np.array(evaluated) @ goals.T).max(axis=0))

    def decoded(beam: int) -> np.ndarray:
        vectors = problem.score_paths([agent.decode(goal, beam) for goal in goals])
        return scaled((vectors * goals).sum(axis=1))

    def silent(values: dict[str, float]) -> None:
        """Losses are of no interest here."""

    if variant.endswith("no_offline"):
        offline, online = 0, offline + online
    out = {}
    if offline:
        agent.offline(evaluate, offline, silent)
        out = {
            "offline/greedy": float(decoded(0).mean()),
            "offline/archive": float(archive().mean()),
        }
    agent.online(evaluate, online, silent)
    greedy, beam, best = decoded(0), decoded(BEAM), archive()
    return {
        **out,
        "greedy": float(greedy.mean()),
        "decoded": float(beam.mean()),
        "archive": float(best.mean()),
        "greedy_above_archive": float((greedy > best + 1e-9).mean()),
        "decoded_not_below_archive": float((beam > best - 1e-9).mean()),
        "evaluations": float(len(evaluated)),
        "agent_seconds": agent.seconds,
    }

"""The agent's parts on three environments of MO-Gymnasium: settings, runs, the best in each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import mo_gymnasium
import numpy as np

from experiments.agent_checks.known import best_choices, measures, reachable_returns
from experiments.agent_checks.learner import EpisodeLearner, LearnerSettings
from hm3rl.objectives.scalarisation import tchebycheff

GAMMA = 0.99
DEPTH = np.array([0.0, -25.0])
"""Reference point of deep-sea-treasure's hypervolumes: no treasure, 25 discounted steps."""

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Protocol:
    """How the agent is checked on one environment.

    Attributes:
        name: Environment of MO-Gymnasium.
        settings: Of the agent, by variant.
        scale: Units of the objectives, see `PreferenceEnv`.
        offline: Random episodes to learn from first.
        online: Steps of the environments in the online phase.
        consolidate: Gradient steps of regression at the end, and their temperature.
        reference: Of the hypervolume, if it is measured.
        utopia: z of Tchebycheff in scaled units.
        rho: Augmentation of Tchebycheff.
    """

    name: str
    settings: dict[str, LearnerSettings]
    scale: float | tuple[float, ...]
    offline: int = 0
    online: int = 0
    consolidate: tuple[int, float] = (0, 1.0)
    reference: np.ndarray | None = None
    utopia: tuple[float, ...] = (1.0, 0.0)
    rho: float = 0.001

    def make(self) -> gym.Env[Any, Any]:
        """The environment."""
        return mo_gymnasium.make(self.name)


PLAIN = LearnerSettings(gamma=GAMMA, replay_steps=0)
"""PPO with a vector critic; what differs stands at each protocol."""

FRUIT = LearnerSettings(
    gamma=GAMMA,
    conditioning="film",
    faces=True,
    temperature=0.05,
    pretrain_steps=3000,
    entropy=0.02,
    learning_rate=3e-4,
)

PROTOCOLS = {
    "deep_sea_treasure": Protocol(
        "deep-sea-treasure-v0",
        {"agent": PLAIN},
        scale=20.0,
        online=200_000,
        reference=DEPTH,
    ),
    "fruit_tree": Protocol(
        "fruit-tree-v0",
        {"agent": FRUIT},
        scale=5.0,
        offline=500,
        online=20_000,
        consolidate=(1000, 0.05),
    ),
    "concave": Protocol(
        "deep-sea-treasure-concave-v0",
        {
            "tchebycheff": LearnerSettings(
                gamma=GAMMA, replay_steps=0, scalarisation="tchebycheff"
            ),
            "weighted_sum": PLAIN,
        },
        # The largest treasure, and about as many steps as the farthest treasure is away.
        scale=(124.0, 20.0),
        online=200_000,
        consolidate=(1000, 0.01),
        reference=DEPTH,
    ),
}


@cache
def riesz(objectives: int) -> np.ndarray:
    """100 preferences of low Riesz s-energy, shape (100, K); see the README for their origin."""
    return np.loadtxt(FOLDER / "preferences" / f"riesz_{objectives}.csv", delimiter=",")


def known(problem: str) -> dict[str, dict[str, float]]:
    """What the best policy of a linear and of a Tchebycheff agent reaches, by utility."""
    protocol = PROTOCOLS[problem]
    front = reachable_returns(protocol.make(), GAMMA)
    goals = riesz(front.shape[1])
    out = {}
    for variant, settings in protocol.settings.items():
        kind = settings.scalarisation
        scale = np.broadcast_to(protocol.scale, front.shape[1:])
        utopia = np.broadcast_to(protocol.utopia, scale.shape) if kind == "tchebycheff" else scale
        # A number as scale changes no linear preference; a vector means scaled objectives.
        best = best_choices(front / scale, goals, kind, utopia, protocol.rho) * scale
        out[variant] = describe(best, goals, front, protocol, settings)
    return out


def describe(
    found: np.ndarray,
    goals: np.ndarray,
    front: np.ndarray,
    protocol: Protocol,
    settings: LearnerSettings,
) -> dict[str, float]:
    """Measures of the returns found for each preference."""
    out = measures(found, goals, front, protocol.reference)
    if settings.scalarisation == "tchebycheff":
        scaled = found / np.asarray(protocol.scale)
        out["tchebycheff"] = float(
            tchebycheff(scaled, goals, np.asarray(protocol.utopia), protocol.rho).mean()
        )
    return out


def run(problem: str, variant: str, seed: int, share: float = 1.0) -> dict[str, float]:
    """One run.

    Args:
        problem: Name of a protocol.
        variant: One of its settings.
        seed: Seed of the agent; the environments have no chance in them.
        share: Of the protocol's steps and episodes; 1 for results.

    Returns:
        Measures after each phase, `phase/name`; the last phase's also as `name`.
    """
    protocol = PROTOCOLS[problem]
    settings = protocol.settings[variant]
    scale = np.asarray(protocol.scale) if isinstance(protocol.scale, tuple) else protocol.scale
    utopia: float | np.ndarray = 1.1
    if settings.scalarisation == "tchebycheff":
        utopia = np.asarray(protocol.utopia)
    agent = EpisodeLearner(
        protocol.make, settings, seed, scale=scale, utopia=utopia, rho=protocol.rho
    )
    goals = riesz(agent.objectives)
    front = reachable_returns(protocol.make(), GAMMA)
    out: dict[str, float] = {}

    def measure(phase: str) -> None:
        found = describe(agent.returns(goals), goals, front, protocol, settings)
        out.update({f"{phase}/{name}": value for name, value in found.items()})
        out.update(found)

    if protocol.offline:
        agent.offline(max(1, round(share * protocol.offline)))
        measure("offline")
    if protocol.online:
        agent.online(max(1, round(share * protocol.online)))
        measure("online")
    steps, temperature = protocol.consolidate
    if steps:
        agent.consolidate(max(1, round(share * steps)), temperature)
        measure("consolidated")
    return out

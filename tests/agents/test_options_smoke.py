"""Every word an option may be, and every switch, on a SyntheticMerge that takes milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hm3rl.agents.agent import MergeAgent
from hm3rl.config.agents import AcquisitionSettings, GPSettings, HM3AgentSettings
from hm3rl.config.schema import RunSettings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.paths.layer_path import LayerPath
from hm3rl.surrogate.dataset import Outcome
from tests.agents.test_agent import choices

PROBLEM = SyntheticProblem.draw(layers=4, members=3, objectives=2, seed=5)
SMALL = HM3AgentSettings(
    embedding=4,
    hidden=8,
    pretrain_steps=4,
    replay_steps=1,
    critic_warm_up=2,
    distil_steps=4,
    model_generated=8,
    rollouts=4,
    epochs=1,
    acquisition=AcquisitionSettings(proposals=32, samples=8, explore_share=0.5),
)
"""Half of the online phase is PPO's, so that its options are tried too."""

WORDS = [(key, word) for key, words in choices(SMALL).items() for word in words]
SWITCHES = [
    ("acquisition.enabled", False),
    ("hindsight", False),
    ("model_generated", 0),
    ("distil_steps", 0),
    ("length_cost", 0.1),
    ("gamma", 0.9),
    ("likelihood_weight", 0.5),
    ("acquisition.offline_share", 0.0),
]


def changed(key: str, value: object) -> HM3AgentSettings:
    room, _, name = key.rpartition(".")
    if not room:
        return replace(SMALL, **{name: value})  # type: ignore[arg-type]
    return replace(SMALL, **{room: replace(getattr(SMALL, room), **{name: value})})


@pytest.mark.parametrize(("key", "value"), WORDS + SWITCHES)
def test_both_phases_run_and_the_policy_decodes(key: str, value: object) -> None:
    asked: list[str] = []

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        asked.extend(str(path) for path in paths)
        return [Outcome(vector, np.exp(-vector)) for vector in PROBLEM.score_paths(paths)]

    run = RunSettings(agent=changed(key, value), surrogate=GPSettings(fit_steps=3, refit_steps=1))
    agent = MergeAgent.fresh(PROBLEM.space(), ("x", "y"), run)
    agent.offline(evaluate, 12, lambda values: None)
    agent.online(evaluate, 20, lambda values: None)
    assert len(asked) == len(set(asked)) == 32
    assert agent.state.ppo._n_updates > 0
    path = agent.decode(np.array([0.5, 0.5]))
    assert agent.space.offers(path)
    assert all(np.isfinite(p.detach().numpy()).all() for p in agent.state.policy.parameters())

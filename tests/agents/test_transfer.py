from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.transfer import start_from
from hm3rl.config.compose import compose_settings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.errors import InputError
from hm3rl.run.build import check_settings
from tests.agents.test_agent import NAMES, PROBLEM, Budget, quick


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    light = quick(3, pretrain_steps=5, distil_steps=5, model_generated=4)
    agent, folder = (
        MergeAgent.fresh(PROBLEM.space(), NAMES, light),
        tmp_path_factory.mktemp("run"),
    )
    agent.offline(Budget(), 12, lambda values: None)
    agent.save(folder / "agent.zip")
    return folder


@pytest.mark.parametrize("inside", ["", "agent.zip"])
def test_networks_are_taken_over_and_knowledge_is_not(saved: Path, inside: str) -> None:
    other = SyntheticProblem.draw(layers=6, members=4, objectives=3, seed=9)
    agent = MergeAgent.fresh(other.space(), NAMES, quick())
    start_from(agent.state, str(saved / inside))
    expected = MergeAgent.load(saved / "agent.zip").state.policy.state_dict()
    for name, value in agent.state.policy.state_dict().items():
        assert torch.equal(value, expected[name])
    assert len(agent.state.dataset) == 0


def test_other_sizes_are_refused_naming_both(saved: Path) -> None:
    larger = SyntheticProblem.draw(layers=6, members=5, objectives=3, seed=9)
    agent = MergeAgent.fresh(larger.space(), NAMES, quick(hidden=24))
    with pytest.raises(InputError, match="members 4 there and 5 here") as caught:
        start_from(agent.state, str(saved))
    assert "agent.hidden 16 there and 24 here" in str(caught.value)


def test_a_folder_without_an_agent_is_refused(tmp_path: Path) -> None:
    agent = MergeAgent.fresh(PROBLEM.space(), NAMES, quick())
    with pytest.raises(InputError, match=r"no .*agent.zip"):
        start_from(agent.state, str(tmp_path))


def test_a_file_that_holds_no_agent_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    file = tmp_path / "agent.zip"
    settings = compose_settings([f"agent.init_from={file}"])
    contents = [
        {},
        {"hm3rl/meta.json": "no JSON"},
        {"hm3rl/meta.json": "[]", "hm3rl/arrays.npz": "no arrays"},
        {"hm3rl/meta.json": '{"format": 1}', "hm3rl/arrays.npz": _no_arrays()},
    ]
    file.write_text("a text\n")
    for content in [None, *contents]:
        if content is not None:
            with zipfile.ZipFile(file, "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
        with pytest.raises(InputError, match=r"agent\.zip is (no saved|a damaged) agent"):
            check_settings(settings)


def _no_arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, nothing=np.zeros(1))
    return buffer.getvalue()


def test_the_agents_own_preference_is_saved(tmp_path: Path) -> None:
    only = np.array([0.2, 0.3, 0.5])
    light = quick(pretrain_steps=2, model_generated=4)
    agent = MergeAgent.fresh(PROBLEM.space(), NAMES, light, only)
    agent.offline(Budget(), 8, lambda values: None)
    agent.save(tmp_path / "agent.zip")
    again = MergeAgent.load(tmp_path / "agent.zip")
    np.testing.assert_array_equal(again.state.served.only, only)
    np.testing.assert_array_equal(again.state.replay.preferences, np.tile(only, (8, 1)))

"""Scored paths of finished runs as a Minari dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hm3rl import api
from hm3rl.cli import app
from hm3rl.errors import InputError
from hm3rl.interop import minari_dataset
from hm3rl.paths.layer_path import LayerPath
from hm3rl.run.job import SearchResult
from hm3rl.search.architecture_level import absorb_dataset
from hm3rl.surrogate.dataset import Outcome
from tests.small_search import few_items

MEMBERS = ("budget=20",)
BLENDS = ("agent=psl", "budget=16", "agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")

Searched = Callable[..., SearchResult]


@pytest.fixture
def minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Minari, whose datasets lie in a folder of the test's own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return pytest.importorskip("minari")


@pytest.mark.parametrize("words", [MEMBERS, BLENDS], ids=["members", "blends"])
def test_episodes_are_those_of_the_environment_of_the_run(
    searched: Searched, minari, words: tuple[str, ...], tmp_path: Path, monkeypatch
):
    folder = searched(*words).folder
    found = CliRunner().invoke(app, ["dataset", str(folder.path), "--to", "minari:tiny/paths"])
    assert found.exit_code == 0, found.output
    data = minari.load_dataset("tiny/paths-v0")
    metadata = list(data.storage.get_episode_metadata(data.episode_indices))
    lines = {line["key"]: line for line in folder.read_archive()}
    assert {one["chosen_by"] for one in metadata} <= {line["chosen_by"] for line in lines.values()}
    assert f"{data.total_episodes} episodes" in found.output
    monkeypatch.chdir(tmp_path)  # where the environment's run is made
    env = data.recover_environment(budget=50)  # new to its run, known to the store
    assert data.observation_space == env.observation_space
    assert data.action_space == env.action_space
    for episode, said in zip(data.iterate_episodes(), metadata, strict=True):
        observation, _ = env.reset(seed=said["seed"])
        seen = [observation]
        for action, reward in zip(episode.actions, episode.rewards, strict=True):
            observation, paid, ended, _, info = env.step(action)
            assert paid == pytest.approx(reward)
            seen.append(observation)
        for key, values in episode.observations.items():
            np.testing.assert_array_equal(values, np.stack([one[key] for one in seen]))
        assert ended and episode.terminations.tolist() == [False] * (len(seen) - 2) + [True]
        np.testing.assert_allclose(info["vector_reward"], said["vector_reward"])
        np.testing.assert_array_equal(episode.infos["vector_reward"][-1], said["vector_reward"])
        assert not episode.infos["vector_reward"][:-1].any()
        np.testing.assert_allclose(said["preference"], seen[0]["preference"], rtol=1e-6)
    env.close()


def test_runs_share_a_dataset_if_their_paths_are_of_one_environment(
    searched: Searched, minari, tmp_path: Path
):
    first = searched(*BLENDS).folder.path
    again = tmp_path / "again"
    shutil.copytree(first, again)
    lines = [json.loads(line) for line in (again / "archive.jsonl").read_text().splitlines()]
    lines[-1].update(failed=True)
    (again / "archive.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert api.dataset([again], "minari:less").episodes == len(lines) - 1
    written = api.dataset([again, first], "minari:both-v1")
    assert (written.name, written.form, written.episodes) == ("both-v1", "box", len(lines))
    with pytest.raises(InputError, match="there is a Minari dataset both-v1 already"):
        api.dataset([first], "minari:both-v1")
    with pytest.raises(InputError, match=r"of one environment: form discrete and box") as refused:
        api.dataset([searched(*MEMBERS).folder.path, first], "minari:mixed")
    assert "a dataset of each" in refused.value.remedy


@pytest.mark.parametrize(
    "words", [("search=architecture_only", *MEMBERS), BLENDS], ids=["members", "blends"]
)
def test_a_search_learns_from_a_dataset_at_no_evaluation(
    searched: Searched, minari, words: tuple[str, ...], tmp_path: Path
):
    first = searched(*words)
    written = api.dataset([first.folder.path], "minari:first")
    key = "agent.offline_data=minari:first-v0"
    again = few_items(*words, "seed=1", "budget=8", key, f"output={tmp_path / 'run'}")
    second = api.search(*again)
    assert second.summary["evaluations"] == 8
    own, known = second.problem.archive.keys, first.problem.archive.keys
    sources = 4
    assert len({*own} & {*known}) == sources  # what is known is not asked for again
    metrics = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert f"0,offline_data,{written.episodes - sources}" in metrics
    paths = [first.problem.candidate(key).path for key in known]
    if words == BLENDS:
        assert len(second.agent.blends) == len(known) + 8
    else:
        assert len(second.agent.state.dataset) == len(known) + 8
        tokens = second.agent.space.encode(paths[-1])
        vector = first.problem.archive.vector(known[-1]) / first.problem.z_star
        np.testing.assert_allclose(second.agent.state.dataset.outcome(tokens).vector, vector)


def test_a_dataset_that_does_not_fit_is_refused(searched: Searched, minari, tmp_path: Path):
    key = "agent.offline_data=minari:other"
    words = few_items("search=architecture_only", *MEMBERS, key, f"output={tmp_path / 'run'}")
    with pytest.raises(InputError, match="there is no Minari dataset other-v0"):
        api.search(*words)
    api.dataset([searched(*BLENDS).folder.path], "minari:other")
    fewer = [word for word in words if not word.startswith(("output=", "tasks.math.search_items"))]
    with pytest.raises(InputError, match="scored under another tasks and items"):
        api.search(*fewer, "tasks.math.search_items=20", f"output={tmp_path / 'fewer'}")
    members = searched("search=architecture_only", *MEMBERS)
    strange = {LayerPath.parse("base | {math: 0.5}[0:8]"): Outcome(np.ones(3), np.ones(3))}
    with pytest.raises(InputError, match=r"none of the 1 paths of .* can be walked here"):
        absorb_dataset(members.problem, members.agent, "minari:other", strange)


@pytest.mark.parametrize("name", ["tiny", "minari:", "minari:a b", "minari:../up"])
def test_what_names_no_dataset_is_refused(name: str, minari):
    with pytest.raises(InputError, match="names no Minari dataset"):
        api.dataset([], name)


def test_without_minari_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(minari_dataset, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs minari and h5py") as refused:
        api.dataset([], "minari:tiny")
    assert refused.value.remedy == "pip install 'hm3rl[minari]'"

"""A whole problem behind an environment: counted, stored, in the archive, and a run like others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from hm3rl import api
from hm3rl.envs.forms import FORMS
from hm3rl.errors import InputError
from hm3rl.paths.blend_space import BlendSpace
from tests.small_search import TASKS

FEW = [f"tasks.{task}.{split}_items=24" for task in TASKS for split in ("search", "test")]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., gym.Env]:
    """Makes an environment of the tiny zoo, in a folder of its own."""
    made = []

    def of(name: str = "run", **options: object) -> gym.Env:
        words = ["experiment=tiny", *FEW, f"name={name}", f"root={tmp_path}"]
        made.append(gym.make("hm3rl/MergePath-v0", config=words, **options))
        return made[-1]

    yield of
    for env in made:
        env.close()


def walk(env: gym.Env, rng: np.random.Generator, **options: object) -> tuple:
    """One episode of random legal actions."""
    env.reset(**options)
    ended = truncated = False
    while not (ended or truncated):
        legal = np.flatnonzero(env.unwrapped.action_masks())
        _, reward, ended, truncated, info = env.step(rng.choice(legal))
    return reward, ended, truncated, info


def retake(env: gym.Env, path: object) -> tuple:
    """The episode of a path."""
    space = env.unwrapped.space
    env.reset()
    for token in space.encode(path):
        step = env.step(np.int64(token))
        if step[2] or step[3]:
            return step[1:]
    raise AssertionError("the path has no end")


def test_every_path_is_counted_once_stored_and_in_the_archive(make):
    env, rng = make(budget=3), np.random.default_rng(0)
    problem = env.unwrapped.problem
    preference = np.array([0.5, 0.25, 0.25])
    reward, ended, _, info = walk(env, rng, options={"preference": preference})
    assert ended and problem.used == 1
    assert reward == pytest.approx(float(info["vector_reward"] @ preference))
    (key,) = [point.key for point in problem.trace]
    assert problem.candidate(key).path == info["path"]
    np.testing.assert_allclose(problem.archive.vector(key) / problem.z_star, info["vector_reward"])
    again = retake(env, info["path"])
    assert problem.used == 1
    np.testing.assert_array_equal(again[-1]["vector_reward"], info["vector_reward"])
    assert problem.chosen_by == {"environment": 1}


def test_when_the_budget_is_spent_new_paths_are_truncated_and_known_ones_free(make, caplog):
    env, rng = make(budget=2), np.random.default_rng(1)
    known = [walk(env, rng)[-1]["path"] for _ in range(2)]
    assert env.unwrapped.problem.remaining == 0
    for _ in range(2):
        reward, ended, truncated, info = walk(env, rng)
        assert (reward, ended, truncated, info["budget_spent"]) == (0.0, False, True, True)
    assert caplog.text.count("budget of 2 evaluations is spent") == 1
    _, ended, truncated, info = retake(env, known[0])
    assert ended and not truncated and info["vector_reward"].any()
    assert env.unwrapped.problem.used == 2


def test_a_concluded_run_is_a_run_like_any_other(make, tmp_path):
    env, rng = make(budget=3), np.random.default_rng(2)
    paths = {str(walk(env, rng)[-1]["path"]) for _ in range(3)}
    folder = env.unwrapped.report()
    env.close()
    assert folder.path == tmp_path / "run-seed0"
    run = api.open_run(folder.path)
    assert run.summary["searcher"] == "environment" and run.summary["evaluations"] == 3
    assert paths <= {str(one.path) for one in run.candidates.values()}
    assert {"pareto.png", "leaderboard.md"} <= {file.name for file in folder.path.iterdir()}
    choice = api.pick(run, {"math": 1})
    assert choice.origin == "front"
    with pytest.raises(InputError, match="nobody steps now"):
        api.search(f"resume={folder.path}")
    with pytest.raises(InputError, match="closed"):
        walk(env, rng)


def test_a_run_that_scored_nothing_says_so(make, caplog):
    env = make(budget=3)
    for _ in range(2):
        env.reset()
        _, _, ended, _, info = env.step(np.int64(env.unwrapped.space.stop))
        assert ended and info["illegal"]
    with pytest.raises(InputError, match="of 2 episodes that ended, 2 did with an illegal action"):
        env.unwrapped.report()
    env.close()
    assert "nothing was scored" in caplog.text


def test_a_run_gives_its_scores_and_members_to_another(searched, tmp_path, monkeypatch):
    first = searched("budget=20")
    monkeypatch.chdir(tmp_path)  # where the new run's folder is made
    env = gym.make("hm3rl/MergePath-v0", config=first.folder.path, budget=2)
    offered = env.unwrapped.space.members
    assert set(offered) > {"base", *first.problem.pool.expert_names}
    assert {*first.agent.space.members} <= {*offered}
    path = next(
        candidate.path
        for candidate in map(first.problem.candidate, first.problem.archive.keys)
        if len(set(candidate.path.members)) > 1
    )
    retake(env, path)
    key = env.unwrapped.problem.trace[-1].key
    np.testing.assert_array_equal(
        env.unwrapped.problem.archive.vector(key), first.problem.archive.vector(key)
    )
    lines = (tmp_path / "runs" / "run-seed0" / "archive.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["evaluations"] == 1
    env.close()


@pytest.mark.parametrize("form", FORMS)
def test_the_checkers_are_content_with_a_whole_problem(make, form: str):
    env = make(budget=3, form=form).unwrapped
    if form != "hybrid":  # Stable-Baselines3 has no algorithm for a dictionary of actions
        sb3_check(env)
    gymnasium_check(env, skip_render_check=True)


def test_blends_are_scored_too(make):
    env = make(budget=2, form="box")
    assert isinstance(env.unwrapped.blends, BlendSpace)
    env.reset(seed=0)
    ended = False
    while not ended:
        _, reward, ended, _, _ = env.step(env.action_space.sample())
    assert env.unwrapped.problem.used == 1 and reward > 0


def test_episodes_side_by_side_share_one_budget(tmp_path):
    words = ["experiment=tiny", *FEW, f"output={tmp_path / 'run'}"]
    env = gym.make_vec("hm3rl/MergePath-v0", num_envs=3, config=words, budget=2)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(env.unwrapped.space.horizon):
        masks = env.action_masks()
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        _, _, terminated, truncated, _ = env.step(actions)
    assert sorted(truncated) == [False, False, True]
    assert (terminated ^ truncated).all()
    assert env.unwrapped.problem.used == 2
    env.close()


@pytest.mark.parametrize(
    "imports",
    [
        "import gymnasium as gym, hm3rl",
        "import hm3rl\nassert 'numpy' not in sys.modules\nimport gymnasium as gym",
        "import hm3rl\nfrom gymnasium import spaces\nimport gymnasium as gym",
    ],
    ids=["after", "before", "a_part_first"],
)
def test_importing_the_package_registers_the_environments_without_torch(imports: str):
    code = (
        f"import sys\n{imports}\nassert 'torch' not in sys.modules\n"
        "assert gym.spec('hm3rl/MergePath-v0') and gym.spec('hm3rl/SyntheticMerge-v0')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_settings_stay_as_they_are_and_say_what_a_path_is_worth(tmp_path):
    words = ["experiment=tiny", *FEW, f"root={tmp_path}", "agent.scalarisation=tchebycheff"]
    settings = api.settings(*words, "agent.length_cost=0.01")
    for number in ("tiny-seed0", "tiny-seed0-2"):
        env = gym.make("hm3rl/MergePath-v0", config=settings, budget=1)
        reward, *_, info = walk(env, np.random.default_rng(0), seed=0)
        assert env.unwrapped.run.open.folder.path == tmp_path / number
        preference = env.unwrapped._episode.preference
        gaps = preference * (1.1 - info["vector_reward"])
        assert reward == pytest.approx(-(gaps.max() + 0.05 * gaps.sum()) - 0.01 * 8)
        env.close()
    assert (settings.output, settings.budget) == ("", 120)


def test_what_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(InputError, match="experiment=nothing"):
        gym.make("hm3rl/MergePath-v0", config="experiment=nothing")
    with pytest.raises(InputError, match="form='flat'"):
        gym.make("hm3rl/MergePath-v0", config=["experiment=tiny"], form="flat")

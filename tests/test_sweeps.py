"""Sweeps and their words on the command line: every job in a folder of its own, and what fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hm3rl import api
from hm3rl.evaluation.causes import DeviceError
from hm3rl.reporting.wandb_logger import figures
from tests.commands import assert_refused, call
from tests.small_search import FEW_ITEMS


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_sweep_runs_every_job_in_a_folder_of_its_own_and_ends_with_a_table(
    tmp_path: Path, launcher: str
):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    command = [sys.executable, "-m", "hm3rl.cli", "search", *FEW_ITEMS, "search=random", "budget=6"]
    command += ["-m", "seed=0,1", f"hydra/launcher={launcher}"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    summaries = sorted(tmp_path.glob("sweeps/run/*/*/summary.json"))
    assert [json.loads(s.read_text())["seed"] for s in summaries] == [0, 1]
    table = done.stdout
    for summary in map(json.loads, (s.read_text() for s in summaries)):
        assert f"{summary['hypervolume']['test']:.3f}" in table
    folder = re.search(r"next: hm3rl report (\S+)", table)
    assert folder and call("report", str(tmp_path / folder[1])).exit_code == 0
    assert (tmp_path / folder[1] / "report.html").is_file()


def test_a_sweep_hands_its_words_to_every_job(tmp_path: Path, monkeypatch):
    from hm3rl import api

    jobs = []

    def searched(settings):
        jobs.append((settings.seed, list(settings.tasks), settings.name, settings.output))
        return SimpleNamespace(summary={"hypervolume": {"search": 1.0}})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "search_with", searched)
    own = tmp_path / "my, (models) = ü" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nname: a=b, ü\n")
    words = [
        "experiment=mine",
        "seed=0,1",
        "+tasks.arc.kind=lm_eval",
        "+tasks.arc.lm_eval=arc_easy",
    ]
    folder, finished = api.sweep(words, own.parent)
    assert finished and folder.parent.name == "a=b, ü"
    tasks = ["translation", "math", "code", "arc"]
    assert [job[:3] for job in jobs] == [(0, tasks, "a=b, ü"), (1, tasks, "a=b, ü")]
    assert [Path(job[3]) for job in jobs] == [tmp_path / folder / "0", tmp_path / folder / "1"]


def test_a_sweep_ends_where_the_device_failed(tmp_path: Path, monkeypatch, capsys):
    jobs = []

    def searched(settings):
        jobs.append(settings.seed)
        error = DeviceError("the machine failed to score: CUDA error: unspecified launch failure")
        error.add_note("go on with: hm3rl search resume=there")
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "search_with", searched)
    _, finished = api.sweep(["seed=0,1"])
    assert not finished and jobs == [0]
    assert "go on with: hm3rl search resume=there" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_that_fails_does_not_stop_the_sweep_and_is_counted(tmp_path: Path):
    command = [sys.executable, "-m", "hm3rl.cli", "search", *FEW_ITEMS, "search=random", "budget=6"]
    command += ["-m", "pool.experts.math=zoo:math,nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 of 2 jobs did not finish" in done.stdout
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("style", ["args", "args_no_hyphens", "args_override_hydra"])
def test_a_sweep_of_wandb_writes_keys_as_it_likes(style: str):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    chosen = {"agent.learning_rate": 0.001, "seed": 2, "agent.hindsight": False}
    if style == "args":
        chosen["search.parameter_share"] = None
    told = {"args": {key: {"value": value} for key, value in chosen.items()}}
    result = call(
        "search", "--cfg", "job", "experiment=tiny", *create_sweep_command_args(told)[style]
    )
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load(result.stdout)
    assert (settings["seed"], settings["agent"]["learning_rate"]) == (2, 0.001)
    assert settings["agent"]["hindsight"] is False and settings["name"] == "tiny"
    assert settings["search"]["parameter_share"] is None


def test_the_sweep_on_the_page_runs_what_it_means():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    page = (Path(__file__).parents[1] / "docs" / "dashboards.md").read_text()
    (text,) = re.findall(r'^```yaml title="sweep.yaml"\n(.*?)^```', page, re.M | re.S)
    sweep = yaml.safe_load(text)
    chosen = {"agent.learning_rate": 0.002, "seed": 1}
    assert set(chosen) == set(sweep["parameters"])
    told = {"args": {key: {"value": value} for key, value in chosen.items()}}
    # As wandb's agent puts a command together, from what a server tells it.
    styles = create_sweep_command_args(told)
    words = [
        word
        for chunk in create_sweep_command(sweep["command"])
        for word in (styles[chunk[2:-1]] if chunk.startswith("${") else [chunk])
    ]
    assert words[:2] == [sweep["program"], "search"] and "--agent.learning_rate=0.002" in words
    result = call(*words[1:], "--cfg", "job")
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load(result.stdout)
    assert (settings["agent"]["learning_rate"], settings["seed"]) == (0.002, 1)
    assert settings["name"] == "tiny" and settings["logging"]["wandb"] != "disabled"
    volumes = {"hypervolume": {"search": 0.8, "test": 0.7}, "front": {"search": 5}, "failed": 0}
    assert sweep["metric"]["name"] in figures(volumes)


def test_the_configuration_is_shown_on_request_and_nothing_is_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("search", "agent=sb3", "agent.kwargs.gamma=0.9", "--cfg", "job")
    assert yaml.safe_load(result.stdout)["agent"]["kwargs"] == {"gamma": 0.9}
    assert not list(tmp_path.iterdir())
    assert_refused(call("search", "--cfg", "hydra"), "--cfg hydra", "--cfg job")


@pytest.mark.parametrize("word", ["--budgt", "-x", "--agent.learning_rate"])
def test_an_option_that_is_none_is_refused(word: str):
    assert_refused(call("search", "experiment=tiny", word, "3"), f"no such option: {word}")


def test_a_key_with_hyphens_that_is_none_is_refused_like_others():
    assert_refused(call("search", "--bugdet=3"), "unknown key bugdet", "did you mean budget?")

"""The pages of docs/ and the README: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hm3rl import api
from hm3rl.cli import app
from hm3rl.config.schema import RunSettings
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.paths.layer_path import LayerPath
from hm3rl.run.job import SearchResult
from hm3rl.surrogate.dataset import Outcome
from tests.small_search import FEW_ITEMS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXTENSIONS = sorted((ROOT / "docs" / "extend").glob("*.md"))
SMALL = [*FEW_ITEMS, "budget=6", "search.parameter_share=0.4"]


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Fenced blocks of a page: what follows the language on the fence, and the text."""
    found = re.findall(r"^```(\w*)(.*?)\n(.*?)^```", page.read_text(), re.M | re.S)
    return [(rest.strip(), text) for language, rest, text in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """All `hm3rl` command lines of a page, as words."""
    lines = []
    for _, text in blocks(page, "bash", ""):
        joined = text.replace("\\\n", " ")
        lines += [line for line in joined.splitlines() if line.startswith("hm3rl ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_option_on_a_page_exists(page: Path):
    verbs = typer.main.get_command(app).commands
    for words in commands(page):
        assert words[0] in verbs, words
        known = {option for one in verbs[words[0]].params for option in one.opts}
        assert {w.split("=")[0] for w in words[1:] if w.startswith("-")} <= known, words


def overrides(page: Path) -> list[list[str]]:
    """Overrides of the commands of a page that name no file of the reader's own."""
    plain = [words for words in commands(page) if words[0] in ("search", "check")]
    return [
        [word for word in words[1:] if not word.startswith(("-", "hydra"))]
        for words in plain
        if not any(w.startswith(("resume=", "plugins=", "--config-dir")) for w in words)
    ]


@pytest.mark.parametrize(
    "words",
    [words for page in PAGES for words in overrides(page) if words],
    ids=lambda words: " ".join(words)[:60],
)
def test_every_override_on_a_page_composes(words: list[str]):
    first = [word.split(",")[0] if "[" not in word else word for word in words]
    api.settings(*first)


def test_the_environment_of_the_readme_is_made(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = [text for _, text in blocks(ROOT / "README.md", "python") if "gym.make" in text]
    made: dict[str, Any] = {}
    exec(snippet, made)
    env = made["env"]
    for _ in range(env.unwrapped.space.horizon):
        _, reward, terminated, _, _ = env.step(env.unwrapped.action_masks().argmax())
    assert terminated and reward > 0
    assert env.unwrapped.problem.remaining == 200  # the first member's own path: known, so free
    env.close()


def test_the_readme_s_own_pool_has_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (snippet,) = [text for _, text in blocks(ROOT / "README.md", "python") if "sums" in text]
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    for name, prompt in (("sums", "compute "), ("french", "translate ")):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == 400 and all(prompt in line for line in lines)


@pytest.mark.parametrize("page", EXTENSIONS, ids=lambda page: page.stem)
def test_the_code_of_an_extension_page_runs(page: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    absent = find_spec("minari") is None  # an extra
    files = {rest.split('"')[1]: text for rest, text in blocks(page, "python", "yaml") if rest}
    assert files
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        if (absent and "import minari" in text) or "sys.argv" in text:
            continue  # what takes arguments has a test of its own
        if name.endswith(".py") and f"plugins=[{name}]" not in page.read_text():
            runpy.run_path(name, run_name="__main__")
    ran = commands(page)
    assert ran
    for number, words in enumerate(ran):
        small = list(SMALL) if words[0] == "search" else []
        if small and not any(word.startswith("output=") for word in words):
            small.append(f"output=run{number}")
        if absent and any("minari:" in word for word in words):
            continue
        # The small sizes are those of the zoo's tasks, and not those of stored episodes.
        if "tasks=vowels" in words or any("offline_data" in word for word in words):
            small = [word for word in small if not word.startswith("tasks.")]
        if any(re.match(r"(search|agent|surrogate)=", word) for word in words):
            parts = ("search.", "agent.", "surrogate.")  # of other searchers, agents, surrogates
            small = [word for word in small if not word.startswith(parts)]
        result = CliRunner().invoke(app, [*words, *small])
        assert result.exit_code == 0, result.output


def test_the_algorithm_from_nothing_learns(tmp_path: Path):
    page = ROOT / "docs" / "extend" / "rl_algorithm.md"
    (text,) = [text for rest, text in blocks(page, "python") if "reinforce.py" in rest]
    assert len(text.splitlines()) < 100
    made = runpy.run_path(str(_written(tmp_path / "reinforce_alone.py", text)))
    problem = SyntheticProblem.draw(layers=5, members=3, objectives=2, seed=0)

    def evaluate(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        return [Outcome(vector, nll=-vector) for vector in problem.score_paths(paths)]

    settings = RunSettings(agent=made["ReinforceSettings"](), seed=0)
    agent = made["Reinforce"](problem.space(), ("speed", "quality"), settings)
    agent.online(evaluate, 160, lambda values: None)
    unseen = sample_dirichlet(10, 2, np.random.default_rng(1))
    worth = [float(problem.score_paths([agent.decode(one)])[0] @ one) for one in unseen]
    shares = [problem.normalised(one, p) for one, p in zip(worth, unseen, strict=True)]
    assert np.mean(shares) > 0.5  # 0 are random paths, 1 the best


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_policy_that_was_trained_elsewhere_walks(
    searched: Callable[..., SearchResult], tmp_path: Path, monkeypatch, capsys
):
    pytest.importorskip("minari")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    page = ROOT / "docs" / "extend" / "rl_algorithm.md"
    files = {rest.split('"')[1]: text for rest, text in blocks(page, "python") if rest}
    for name in ("train_elsewhere.py", "walk_elsewhere.py"):
        (tmp_path / name).write_text(files[name])
    run = searched("agent=none", "budget=12").folder.path
    data = api.dataset([run], "minari:blends").name
    if elsewhere := os.environ.get("D3RLPY_PYTHON"):
        command = [elsewhere, "train_elsewhere.py", data, "policy.pt"]
        subprocess.run(command, check=True, capture_output=True)
    else:  # in the place of what d3rlpy writes: the middle of the box, whatever was seen
        torch.jit.trace(lambda rows: rows[:, -3:] * 0.0, torch.zeros(1, 31)).save("policy.pt")
    monkeypatch.setattr(sys, "argv", ["walk_elsewhere.py", str(run), "policy.pt"])
    runpy.run_path("walk_elsewhere.py", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("0." in line and "{" in line for line in lines)


def _written(path: Path, text: str) -> Path:
    path.write_text(text.replace('"reinforce"', '"reinforce_alone"'))
    return path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_relative_link_leads_to_a_file(page: Path):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    for link in links:
        if link.strip("./").startswith("reference"):
            continue  # written when the site is built
        assert (page.parent / link).exists(), link

"""A killed search, resumed, ends as if nobody had killed it."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hm3rl import api, registry
from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.files import RunFolder
from hm3rl.models.zoo import zoo_folder
from hm3rl.search.competitors.random import RandomSearch
from tests.small_search import FEW_ITEMS, few_items

WORDS = [*FEW_ITEMS, "budget=24", "seed=5", "threads=1"]


def decisions(folder: Path) -> list[tuple[str, ...]]:
    with (folder / "evaluations.csv").open() as stream:
        rows = csv.DictReader(stream)
        return [(r["evaluations"], r["phase"], r["key"], r["hypervolume"]) for r in rows]


def searched_keys(store: EvaluationStore) -> set[str]:
    return {e.key for condition, e in store.evaluations() if condition.split == "search"}


def test_sigkill_loses_no_committed_evaluation_and_changes_nothing(tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    api.search(*WORDS, f"output={whole}")
    store = killed / "evaluations.sqlite"
    command = [sys.executable, "-m", "hm3rl.cli", "search", *WORDS, f"output={killed}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    committed = 0
    while committed < 12 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        if store.exists() and (killed / "run.log").exists():
            with EvaluationStore(store) as reader:
                committed = len(searched_keys(reader))
    process.send_signal(signal.SIGKILL)
    process.wait()
    with EvaluationStore(store) as reader:
        before = searched_keys(reader)
    assert 12 <= len(before) < 4 + 24
    api.search(f"resume={killed}")
    assert decisions(killed) == decisions(whole)
    assert (killed / "front.csv").read_text() == (whole / "front.csv").read_text()
    with (killed / "evaluations.csv").open() as stream:
        cached = {row["key"] for row in csv.DictReader(stream) if row["cached"] == "1"}
    assert before <= cached  # not one of them ran again


def test_a_finished_run_is_not_overwritten(searched):
    folder = searched("budget=20").folder.path
    with pytest.raises(InputError, match="holds a run already"):
        api.search(*FEW_ITEMS, f"output={folder}")


def test_a_warm_store_saves_time_and_never_budget(searched, tmp_path: Path):
    first = searched("budget=20")
    again = api.search(
        *FEW_ITEMS, "budget=20", f"evaluation.store={first.folder.store}", f"output={tmp_path}/w"
    )
    assert again.problem.used == 20
    assert again.problem.evaluator.totals.computed == 0


def test_more_budget_keeps_every_evaluation_of_the_first_life(searched, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(searched("budget=20").folder.path, run)
    before = decisions(run)
    result = api.search(f"resume={run}", "budget=26")
    assert result.summary["evaluations"] == 26
    kept = {key for _, _, key, _ in decisions(run)}
    assert {key for _, _, key, _ in before} <= kept


@pytest.fixture
def changeable() -> Iterator[list[str]]:
    """Words of a search that decides otherwise with every budget."""

    class Changeable(RandomSearch):
        def __init__(self, settings: RunSettings) -> None:
            super().__init__(replace(settings, seed=settings.seed + settings.budget))

    known = registry.snapshot()
    options = registry.find("searcher", "random").options_type()
    registry.register("searcher", "changeable", options=options)(Changeable)
    yield [*few_items("search=changeable"), "pool=zoo", "budget=6"]
    registry.restore(known)


def own_keys(run: Path) -> list[str]:
    return [line["key"] for line in RunFolder(run).read_archive()]


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_that_was_paid_for_leaves_the_archive(
    changeable: list[str], searched, tmp_path: Path, monkeypatch, shared: bool
):
    run = tmp_path / "run"
    words = [*changeable, f"output={run}"]
    if shared:  # with a run that asked for other candidates
        shutil.copy(searched("budget=20").folder.store, tmp_path / "shared.sqlite")
        words.append(f"evaluation.store={tmp_path / 'shared.sqlite'}")
    first = set(api.search(*words).problem.archive.keys)

    class Killed(Exception):
        pass

    def killed(self, candidates):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MergeProblem, "recall", killed)  # when all of its budget is spent
        with pytest.raises(Killed):
            api.search(f"resume={run}", "budget=8")
    second = set(own_keys(run))
    assert not first <= second
    result = api.search(f"resume={run}", "budget=9")
    third = {key for _, phase, key, _ in decisions(run) if phase != "earlier"}
    opened = api.open_run(run)
    assert set(opened.archive.keys) == set(own_keys(run)) == first | second | third
    assert result.summary["evaluations"] == 9
    assert result.summary["earlier"] == len((first | second) - third) > 0
    assert result.summary["hypervolume"]["search"] == pytest.approx(opened.archive.hypervolume())
    assert {row["key"] for row in opened.front_rows()} == set(opened.archive.front_keys())
    assert not RunFolder(run).earlier.exists()


def test_a_budget_below_what_was_used_is_refused_and_changes_nothing(searched, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(searched("budget=20").folder.path, run)
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=r"budget=19 is below the 20 evaluations") as refused:
        api.search(f"resume={run}", "budget=19")
    assert "budget=20" in refused.value.remedy
    assert before == {file: file.read_bytes() for file in run.iterdir() if file.is_file()}


def test_a_run_that_is_resumed_counts_as_unfinished_until_it_ends(
    searched, tmp_path: Path, monkeypatch
):
    run = tmp_path / "run"
    shutil.copytree(searched("budget=20").folder.path, run)

    def interrupted(self, candidates, phase):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MergeProblem, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.search(f"resume={run}")
    with pytest.raises(InputError, match="resume="):
        api.open_run(run)
    api.search(f"resume={run}")
    assert api.open_run(run).archive.keys == searched("budget=20").problem.archive.keys


def test_resuming_at_another_commit_is_noted(searched, tmp_path: Path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(searched("budget=20").folder.path, run)
    monkeypatch.setattr("hm3rl.run.job.checked_out", lambda checkout: "f" * 40)
    api.search(f"resume={run}")
    api.search(f"resume={run}")
    commits = json.loads((run / "environment.json").read_text())["commits"]
    assert commits[-1] == "f" * 40
    assert len(commits) == len(set(commits))


@pytest.fixture(scope="module")
def moved_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run (`run`) and its sources (`base`, `math`, `code`)."""
    root = tmp_path_factory.mktemp("moved")
    for name in ("base", "math", "code"):
        shutil.copytree(zoo_folder(name), root / name)
    folders = {name: f"pool.experts.{name}={root / name}" for name in ("math", "code")}
    api.search(
        *(*FEW_ITEMS, "budget=4", "search=random", f"pool.base={root / 'base'}"),
        *(*folders.values(), "pool.experts.translation=zoo:translation", f"output={root / 'run'}"),
    )
    return root


@pytest.fixture
def moved(moved_run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose sources were moved to where `tmp_path` has them."""
    shutil.copytree(moved_run, tmp_path / "new")
    run = tmp_path / "new" / "run"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(moved_run), str(tmp_path / "gone")))
    return tmp_path / "new"


def places(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("base", "math", "code")}


def change(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_source_that_changed_is_refused_by_everything_that_needs_a_model(moved: Path):
    change(moved / "math")
    run = api.open_run(moved / "run", places(moved))
    assert run.front_rows()  # files say what they said
    for use in (
        lambda: api.pick(run, {"math": 1}),
        lambda: api.export(run, run.candidate(run.find("M00")), moved / "model"),
        lambda: api.search(f"resume={moved / 'run'}", sources=places(moved)),
    ):
        with pytest.raises(InputError, match="other weights of math") as refused:
            use()
        assert "--sources math=FOLDER" in refused.value.remedy
    assert not (moved / "model").exists()
    assert api.open_run(moved / "run").summary  # still a finished run


def test_a_source_that_was_moved_is_named_again_and_proved(moved: Path):
    with pytest.raises(InputError, match="'base', a source of the run") as refused:
        api.pick(api.open_run(moved / "run"), {"math": 1})
    assert "--sources base=FOLDER" in refused.value.remedy
    assert api.pick(api.open_run(moved / "run", places(moved)), {"math": 1}).evaluation is not None
    wrong = {**places(moved), "math": moved / "code"}
    with pytest.raises(InputError, match="other weights of math"):
        api.pick(api.open_run(moved / "run", wrong), {"math": 1})
    with pytest.raises(InputError, match="no source 'poems'"):
        api.open_run(moved / "run", {"poems": moved})
    resumed = api.search(f"resume={moved / 'run'}", sources=places(moved))
    assert resumed.problem.evaluator.totals.computed == 0
    assert api.pick(api.open_run(moved / "run"), {"math": 1}).evaluation is not None


def test_sources_are_named_again_only_for_a_run_that_is_there():
    with pytest.raises(InputError, match="without resume"):
        api.search(*FEW_ITEMS, sources={"math": "zoo:math"})

"""Studies: what is run, what is read from it, and that every study runs in a shrunk form."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments import run as command_line
from experiments.common import figures
from experiments.common.committed import folded, known, unfolded
from experiments.common.methods import METHODS, UNPLANNED
from experiments.common.plan import Context, Study, Variant, understood
from experiments.common.prefix import hypervolume_on_test
from experiments.common.records import records
from experiments.common.report import write_methods_only
from experiments.common.runner import Command, commands, run
from experiments.common.tables import method_table, time_line
from hm3rl import api, registry
from hm3rl.config.compose import compose_settings
from hm3rl.config.tasks import SizedTaskSettings
from hm3rl.errors import InputError
from hm3rl.files import RunFolder, RunLock
from hm3rl.objectives.archive import Archive
from hm3rl.run.build import check_settings
from hm3rl.run.finished import FinishedRun
from hm3rl.run.job import SearchResult
from tests.small_search import FEW_ITEMS

STUDIES = [command_line.load(name) for name in command_line.NAMES]

SMALL_POPULATIONS = ["search.population=4"]


def small_study(**variants: Variant) -> Study:
    return Study("small", variants, write_methods_only)


def pretend(folder: Path, volumes: list[float], test: float = 0.5, budget: int = 4) -> None:
    """A finished run of one objective whose k-th evaluation is the k-th score."""
    folder.mkdir(parents=True)
    summary = {
        "budget": budget,
        "objectives": ["math"],
        "hypervolume": {"search": max(volumes), "test": test, "sources_search": 0.1},
        "z_star": {"search": [0.5], "test": [0.5]},
        "seconds": {"search": 1.0, "whole_run": 1800.0},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "environment.json").write_text(json.dumps({"commits": ["0123456789"]}))
    rows = ["evaluations,phase,key,math,hypervolume,fidelity", "0,sources,s,0.05,0.1,full"]
    best = 0.1
    for number, score in enumerate(volumes, start=1):
        best = max(best, score)
        rows.append(f"{number},online,k{number},{score / 2},{best},full")
    (folder / "evaluations.csv").write_text("\n".join(rows) + "\n")


def test_finished_searches_are_skipped_and_killed_ones_continued(tmp_path: Path):
    jobs = small_study(a=Variant(("search=random",), {10: 2, 20: 2})).limited()
    assert [(job.budget, job.seed) for job in jobs] == [(10, 0), (10, 1), (20, 0), (20, 1)]
    pretend(jobs[0].folder(tmp_path), [0.2])
    killed = jobs[1].folder(tmp_path)
    killed.mkdir(parents=True)
    (killed / "config.yaml").touch()
    first, second = commands(jobs, tmp_path)
    assert first.words == (f"resume={killed}",)
    asked = {"-m", "name=small", "threads=1", "search=random", "budget=20", "seed=0,1"}
    assert asked <= set(second.words)
    assert second.folders == (jobs[2].folder(tmp_path), jobs[3].folder(tmp_path))
    assert len(commands(jobs, tmp_path, together=False)) == 3


def test_budgets_with_other_seeds_are_other_sweeps(tmp_path: Path):
    jobs = small_study(a=Variant((), {10: 2, 20: 2, 30: 1})).limited()
    swept = [
        {word for word in command.words if word.startswith(("budget", "seed"))}
        for command in commands(jobs, tmp_path)
    ]
    assert swept == [{"budget=10,20", "seed=0,1"}, {"budget=30", "seed=0"}]


def test_a_failed_search_is_reported_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = Command("broken", ("--nonsense",), ())
    unfinished = Command("unfinished", ("--help",), (tmp_path / "nowhere",))
    fine = Command("fine", ("--help",), ())
    failures = run([broken, unfinished, fine], workers=1)
    assert failures[0].startswith("broken: exit code 2") and "--nonsense" in failures[0]
    assert "nowhere" in failures[1] and len(failures) == 2
    assert "fine: " in capsys.readouterr().out


def test_an_unknown_row_is_named():
    with pytest.raises(SystemExit, match="no such row: magic"):
        command_line.main(["fronts", "--methods", "magic", "--show"])


def test_curves_hold_their_last_value_and_prefixes_end_earlier(tmp_path: Path):
    study = small_study(a=Variant((), {4: 1}, prefixes=(2,)))
    (job,) = study.limited()
    pretend(job.folder(tmp_path), [0.2, 0.1, 0.6])
    prefix, whole = records(study, tmp_path)
    assert (prefix.budget, whole.budget) == (2, 4)
    assert prefix.is_prefix and not whole.is_prefix
    assert whole.hypervolume_curve == pytest.approx([0.2, 0.2, 0.6, 0.6])
    # One objective: its only preference is 1, and utilities are scores / z*.
    assert whole.utility_curve == pytest.approx([0.2, 0.2, 0.6, 0.6])
    assert prefix.hypervolume("search") == pytest.approx(0.2)


def test_a_study_that_owns_its_runs_finds_further_budgets(tmp_path: Path):
    study = small_study(a=Variant((), {4: 1}))
    pretend(tmp_path / "small" / "a" / "budget9-seed3", [0.2], budget=9)
    pretend(tmp_path / "small" / "a" / "budget4-seed0", [0.2])
    assert [(row.budget, row.seed) for row in records(study, tmp_path)] == [(4, 0), (9, 3)]
    guest = Study("guest", study.variants, write_methods_only, runs="small")
    assert [(row.budget, row.seed) for row in records(guest, tmp_path)] == [(4, 0)]


def test_budgets_beyond_the_plan_have_a_figure_of_their_own(tmp_path: Path):
    study = small_study(a=Variant((), {4: 1}, prefixes=(2,)))
    pretend(tmp_path / "small" / "a" / "budget4-seed0", [0.2])
    note = tmp_path / "small" / "a" / "budget4-seed0" / "prefix-2.json"
    note.write_text(json.dumps({"hypervolume_test": 0.1}))
    study.write(study, Context(tmp_path, tmp_path / "planned"))
    pretend(tmp_path / "small" / "a" / "budget9-seed0", [0.2], budget=9)
    study.write(study, Context(tmp_path, tmp_path / "beyond"))
    assert [file.name for file in (tmp_path / "planned").glob("*.png")] == ["hypervolume.png"]
    assert (tmp_path / "beyond" / "hypervolume_9.png").is_file()
    names = ("planned", "beyond")
    same = {(tmp_path / name / "hypervolume.png").read_bytes() for name in names}
    assert len(same) == 1


def test_the_table_pairs_runs_by_seed(tmp_path: Path):
    study = small_study(ours=Variant((), {4: 3}), theirs=Variant((), {4: 2}))
    for job in study.limited():
        # Seed 2 of ours has no partner and must not count.
        test = {"ours": [0.5, 0.7, 0.0], "theirs": [0.4, 0.7]}[job.variant][job.seed]
        pretend(job.folder(tmp_path), [0.2], test=test)
    *_, line = method_table(records(study, tmp_path), lambda variant: "ours")
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["theirs", "4", "2"]
    assert cells[5].startswith("0.75 [") and cells[6].startswith("+0.0500 ±")


def test_the_total_time_counts_each_search_once_and_no_resumed_one(tmp_path: Path):
    study = small_study(a=Variant((), {4: 3}, prefixes=(2,)))
    for job in study.limited():
        pretend(job.folder(tmp_path), [0.2])
        if job.seed == 2:
            file = job.folder(tmp_path) / "summary.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"resumed": True}))
    line = time_line(records(study, tmp_path))
    assert line == "Total time: 2 searches, 1.00 hours of wall clock; 1 resumed not counted."


def test_committed_searches_stay_and_what_they_lack_is_added(tmp_path: Path):
    study = small_study(a=Variant((), {4: 3}), b=Variant((), {4: 1}))
    results = tmp_path / "results"
    pretend(tmp_path / "here" / "small" / "a" / "budget4-seed0", [0.2, 0.6], test=0.5)
    pretend(tmp_path / "here" / "small" / "b" / "budget4-seed0", [0.3], test=0.4)
    study.write(study, Context(tmp_path / "here", results))
    pretend(tmp_path / "there" / "small" / "a" / "budget4-seed0", [0.9], test=0.9)
    pretend(tmp_path / "there" / "small" / "a" / "budget4-seed1", [0.7], test=0.7)
    added = Context(tmp_path / "there", results, committed=(results,))
    rows = known(study, added)
    assert [(row.variant, row.seed) for row in rows] == [("a", 0), ("a", 1), ("b", 0)]
    assert [row.hypervolume("test") for row in rows] == [0.5, 0.7, 0.4]
    for row, curve in zip(rows, ([0.2, 0.6, 0.6, 0.6], [0.7] * 4, [0.3] * 4), strict=True):
        assert row.curves is not None and row.curves[0] == pytest.approx(curve)
        assert row.seconds["commit"] == "0123456"
    study.write(study, added)
    text = (results / "table.md").read_text()
    assert "| a | 4 | 2 |" in text and "3 searches, 1.50 hours" in text
    assert len(known(study, Context(tmp_path / "nowhere", results, committed=(results,)))) == 3


def test_a_study_takes_what_it_names_from_the_results_of_the_study_it_shares_with(tmp_path: Path):
    study = small_study(a=Variant((), {4: 1}, prefixes=(2,)), b=Variant((), {4: 1}))
    for name in ("a", "b"):
        folder = tmp_path / "small" / name / "budget4-seed0"
        pretend(folder, [0.2])
        (folder / "prefix-2.json").write_text(json.dumps({"hypervolume_test": 0.1}))
    pretend(tmp_path / "small" / "a" / "budget9-seed0", [0.2], budget=9)
    study.write(study, Context(tmp_path, tmp_path / "results"))
    elsewhere = Context(tmp_path / "nowhere", tmp_path / "guest", committed=(tmp_path / "results",))
    guest = Study("guest", {"a": study.variants["a"]}, write_methods_only, runs="small")
    rows = known(guest, elsewhere)
    assert [(row.variant, row.budget, row.is_prefix) for row in rows] == [
        ("a", 2, True),
        ("a", 4, False),
    ]
    assert rows[0].hypervolume("test") == pytest.approx(0.1) and not rows[0].seconds


def test_a_figure_without_all_of_its_curves_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    study = small_study(a=Variant((), {4: 2}))
    pretend(tmp_path / "here" / "small" / "a" / "budget4-seed0", [0.2])
    results = tmp_path / "results"
    study.write(study, Context(tmp_path / "here", results))
    before = (results / "hypervolume.png").read_bytes()
    (results / "curves.csv").unlink()
    pretend(tmp_path / "there" / "small" / "a" / "budget4-seed1", [0.9])
    study.write(study, Context(tmp_path / "there", results, committed=(results,)))
    assert (results / "hypervolume.png").read_bytes() == before
    said = "hypervolume.png stays as it is: nobody kept all curves of a"
    assert said in capsys.readouterr().out


def test_curves_are_kept_by_their_changes():
    curves = np.array([[0.1, 0.1, 0.4, 0.4, 0.4], [0.2, 0.3, 0.3, 0.3, 0.5]])
    steps = folded(curves)
    assert [step[0] for step in steps] == [1, 2, 3, 5]
    assert unfolded(steps, 5) == pytest.approx(curves)
    assert folded(np.full((2, 3), 0.5)) == [(1, 0.5, 0.5)]


def test_only_tables_of_searches_can_be_added_to():
    for words in (["preferences"], ["all"], ["fronts", "--shrink"]):
        with pytest.raises(SystemExit, match=r"--add is for full tables of one of .* fronts"):
            command_line.main([*words, "--add", "--no-run"])


def test_evaluations_to_reach_need_curves(tmp_path: Path):
    study = command_line.load("sample_efficiency")
    results = tmp_path / "results"
    results.mkdir()
    lines = ["method,seed,budget,split,hypervolume", "hm3,0,300,search,0.8", "hm3,0,300,test,0.7"]
    (results / "hypervolume.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="no curves of hm3 at 300, seed 0"):
        study.write(study, Context(tmp_path, results, committed=(results,)))


def test_terminated_it_ends_its_searches(tmp_path: Path):
    search = ["fronts", "--methods", "random", "--budgets", "100", "--seeds", "0"]
    words = [sys.executable, "-m", "experiments.run", *search, "--root", str(tmp_path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "fronts" / "random" / "budget100-seed0"
    deadline = time.monotonic() + 120
    while not (folder / "config.yaml").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=120)
    # The search has let its folder go, and can be continued.
    with RunLock(RunFolder(folder)):
        assert not (folder / "summary.json").exists()


def test_the_test_score_of_a_prefix_is_that_of_the_front_of_then(
    finished: FinishedRun, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder.path, folder)
    whole = hypervolume_on_test(folder, finished.summary["budget"])
    assert whole == pytest.approx(finished.summary["hypervolume"]["test"])
    none = hypervolume_on_test(folder, 0)
    # The base's point may add to the experts' own, nothing else is known then.
    sources = Archive(finished.objectives, finished.summary["z_star"]["test"])
    for name, scores in finished.summary["sources"].items():
        sources.add(name, scores["test"])
    assert sources.hypervolume() <= none <= whole
    assert json.loads((folder / "prefix-0.json").read_text())["hypervolume_test"] == none


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_writes_its_files_from_finished_searches(
    study: Study, searched: Callable[..., SearchResult], tmp_path: Path
):
    shrunk = study.shrunk()
    if study.name == "long_to_short":
        few = [f"tasks.sums.{split}_items=24" for split in ("search", "test")]
        words = ("experiment=long_to_short", *few, "search=parameter_only", "budget=7")
        source = api.search(*words, f"output={tmp_path / 'run'}").folder
    else:
        source = searched("budget=20").folder
    summary = json.loads(source.summary.read_text())
    for job in shrunk.limited(seeds=[0]):
        shutil.copytree(source.path, job.folder(tmp_path))
        own = json.dumps(summary | {"budget": job.budget})
        (job.folder(tmp_path) / "summary.json").write_text(own)
    results = tmp_path / "results"
    results.mkdir()
    shrunk.write(shrunk, Context(tmp_path, results, shrunk=True))
    assert {".csv", ".md", ".png"} <= {file.suffix for file in results.iterdir()}
    for file in results.glob("*.csv"):
        with file.open() as stream:
            header, *rows = csv.reader(stream)
        assert rows and all(len(row) == len(header) for row in rows)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # on import of botorch
def test_every_row_of_every_study_composes():
    tasks = {
        job.words: study.variants[job.variant].tasks
        for study in STUDIES
        for job in study.shrunk().limited()
    }
    for words, names in tasks.items():
        settings = compose_settings(words)
        assert names == tuple(
            name for name, one in settings.tasks.items() if isinstance(one, SizedTaskSettings)
        )
        assert settings.threads == 1
        if not registry.find("searcher", settings.search.name).missing_packages():
            check_settings(settings)


@pytest.mark.slow
def test_the_first_evaluations_of_a_method_that_does_not_plan_are_those_of_a_longer_search(
    tmp_path: Path,
):
    for name in sorted(UNPLANNED):
        keys = {}
        for budget in (9, 14):
            words = METHODS[name]
            words += understood(words, (*FEW_ITEMS, *SMALL_POPULATIONS))
            folder = tmp_path / f"{name}{budget}"
            api.search(*words, f"budget={budget}", f"output={folder}")
            with (folder / "evaluations.csv").open() as stream:
                keys[budget] = [r["key"] for r in csv.DictReader(stream) if r["evaluations"] != "0"]
        assert keys[9] == keys[14][:9], name


def test_forty_lines_of_a_figure_differ():
    looks = [figures.style(number) for number in range(40)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 40


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_study_has_a_readme_that_names_its_command(study: Study):
    readme = (command_line.HERE / study.name / "README.md").read_text()
    assert f"python -m experiments.run {study.name}" in readme


def test_a_study_that_lacks_something_says_so_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HM3RL_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match=r"smollm2: .*\n.*hm3rl fetch smollm2"):
        command_line.main(["smollm2", "--root", str(tmp_path / "runs")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.studies
def test_all_studies_run_shrunk(tmp_path: Path):
    command_line.main(["all", "--shrink", "--root", str(tmp_path)])
    made = {folder.name: folder for folder in (tmp_path / "results").iterdir()}
    assert set(made) == {study.name for study in STUDIES if study.in_all and not study.needs()}
    for name, folder in made.items():
        assert {".csv", ".png", ".md"} <= {file.suffix for file in folder.iterdir()}, name


@pytest.mark.studies
@pytest.mark.parametrize(
    "study", [s for s in STUDIES if not s.in_all], ids=lambda study: study.name
)
def test_a_study_that_all_leaves_out_runs_shrunk(study: Study, tmp_path: Path):
    if missing := study.needs():
        pytest.skip(missing)
    command_line.main([study.name, "--shrink", "--root", str(tmp_path)])
    made = {file.suffix for file in (tmp_path / "results" / study.name).iterdir()}
    assert {".csv", ".png", ".md"} <= made

from __future__ import annotations

from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.config.tasks import PathLengthSettings, SizedTaskSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.costs import (
    Minimised,
    PathLength,
    build_costs,
    minimised,
    objectives,
    with_costs,
)
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.events import NullLogger
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.reporting.leaderboard import cost_or_score, definition, heading, rich_table
from hm3rl.run.build import build_problem
from hm3rl.tasks.math import MathTask
from tests.small_search import FEW_ITEMS

LENGTH = ["experiment=tiny_length", "paths.min_length=4"]


def candidate(layers: int) -> Candidate:
    return Candidate.of(LayerPath(tuple(LayerRef("math", n % 8) for n in range(layers)), "math"))


def test_the_utility_of_a_length_falls_linearly_to_zero_at_the_worst():
    length = PathLength("length", place=0, worst=16.0)
    assert [length.utility(candidate(n)) for n in (8, 4, 16, 20)] == [0.5, 0.75, 0.0, 0.0]
    # Over z*, the whole experts' 0.5, that is 2 - T / L.
    assert length.utility(candidate(4)) / length.utility(candidate(8)) == pytest.approx(1.5)
    assert length.minimised.cost(0.75) == pytest.approx(4)


def test_costs_are_built_with_their_place_and_worst():
    tasks = {"length": PathLengthSettings("path_length"), "math": SizedTaskSettings("math")}
    (length,) = build_costs(tasks, depth=8)
    assert (length.place, length.worst) == (0, 16.0)
    assert objectives([MathTask()], [length]) == ("length", "math")
    with pytest.raises(InputError, match=r"worst=8 layers, and the sources have 8"):
        build_costs({"length": PathLengthSettings("path_length", worst=8.0)}, depth=8)


def test_a_task_to_be_minimised_reads_as_one_minus_its_score():
    task = MathTask()
    task.direction = "minimise"
    assert minimised([task], []) == {"math": Minimised(1.0, "")}


def test_paths_of_one_length_are_refused_with_a_way_out(tmp_path: Path):
    with pytest.raises(InputError, match=r"all paths have 8 layers[\s\S]*paths=any"):
        settings = api.settings(*LENGTH, *FEW_ITEMS, "paths.min_length=8")
        build_problem(settings, tmp_path / "store.sqlite", NullLogger())


@pytest.fixture
def counted(tmp_path: Path) -> MergeProblem:
    settings = api.settings(*LENGTH, *FEW_ITEMS, "budget=8")
    problem = build_problem(settings, tmp_path / "store.sqlite", NullLogger())
    problem.prepare()
    return problem


def test_a_cost_enters_archive_and_hypervolume_but_not_the_store(counted: MergeProblem):
    assert counted.objectives == ("translation", "math", "code", "length")
    # All sources have the same length, so the fourth side of every box is 1.
    experts = counted.archive.normalised
    assert experts[:, 3] == pytest.approx(1.0)
    short = Candidate.of(LayerPath(tuple(LayerRef("math", n) for n in (0, 1, 6, 7)), "math"))
    (evaluation,) = counted.evaluate([short], "test")
    assert evaluation.tasks == counted.objectives
    assert evaluation.scores[3] == 0.75 and evaluation.standard_errors[3] == 0.0
    assert counted.archive.normalised[-1, 3] == pytest.approx(1.5)
    stored = [evaluation for _, evaluation in counted.evaluator.store.evaluations()]
    assert {evaluation.tasks for evaluation in stored} == {("translation", "math", "code")}


def test_a_failure_has_no_cost(counted: MergeProblem):
    failed = Evaluation.failure("k", "search", ("translation", "math", "code"), "why", {})
    found = with_costs(failed, candidate(4), counted.evaluator.costs)
    assert found.tasks == counted.objectives and found.scores == ()
    assert not found.ok


def test_a_reader_sees_layers_and_an_arrow():
    known = {"length": {"worst": 16.0, "unit": "layers"}, "error": {"worst": 1.0, "unit": ""}}
    assert heading("length", known) == "length ↓" and heading("math", known) == "math"
    assert cost_or_score("length", 0.5, known) == 8.0
    assert cost_or_score("math", 0.5, known) == 0.5
    assert definition("length", known) == "length: 1 - layers / 16"
    assert definition("error", known) == "error: 1 - error"
    row = {"name": "M00", "on_test_front": "1"}
    for split in ("search", "test"):
        row |= {f"{split}_length": "0.625", f"{split}_length_se": "0.0"}
    sources = {"math": {"search": [0.5], "test": [0.5]}}
    table = rich_table([row], ["length"], sources, known)
    assert [list(column.cells) for column in table.columns[1:]] == [["6.00±.00", "8.00"]] * 2
    assert table.columns[1].header == "search\nlength ↓"

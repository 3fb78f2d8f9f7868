"""Tasks that are watched: scored at the end, never seen by the search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hm3rl import api
from hm3rl.config.compose import compose_settings
from hm3rl.errors import InputError
from hm3rl.run.build import check_settings
from hm3rl.run.job import SearchResult

WATCHED = ("search=random", "budget=6", "tasks.code.role=watch")


def test_a_watched_task_is_no_objective_but_scored_on_the_test_split(
    searched: Callable[..., SearchResult], tmp_path: Path
) -> None:
    folder = searched(*WATCHED).folder
    run = api.open_run(folder.path)
    assert run.objectives == ("translation", "math")
    watched, rows = run.summary["watched"], run.front_rows()
    assert watched["tasks"] == {"code": "pass_at_1"}
    names = {"translation", "math", "code", "base", "uniform 1", rows[0]["name"]}
    assert names <= set(watched["scores"])
    # As somebody would score it who asks for that task alone.
    chosen = run.settings
    score, error = watched["scores"]["math"]["code"]
    again = api.evaluate("zoo:math", chosen, "test")
    place = again.tasks.index("code")
    assert (score, error) == (again.scores[place], again.standard_errors[place])
    for row in rows:
        score, error = watched["scores"][row["name"]]["code"]
        assert row["test_code_pass_at_1"] == f"{score:.4f}"
        assert row["test_code_pass_at_1_se"] == f"{error:.4f}"
    text = folder.leaderboard.read_text()
    assert "Watched tasks, test split" in text and f"| {rows[0]['name']} | {score:.3f}"[:9] in text
    choice = api.pick(run, {"math": 1})
    exported = api.export(run, choice.candidate, tmp_path / "m", choice.evaluation, "bfloat16")
    assert exported.evaluations[0].tasks == run.objectives


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["tasks.code.role=look"], "tasks.code.role=look"),
        ([f"tasks.{task}.role=watch" for task in ("translation", "math", "code")], "no tasks"),
        (["+tasks.size.kind=path_length", "tasks.size.role=watch", "paths=any"], "size.role=watch"),
        (["tasks.code.role=watch", "+export.prefer.code=1"], "code"),
    ],
)
def test_roles_that_make_no_sense_are_refused(words: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_settings(compose_settings(words))

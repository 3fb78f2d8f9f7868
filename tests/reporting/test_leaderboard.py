"""The front's table, with posterior means and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console

from hm3rl import api
from hm3rl.reporting.leaderboard import rich_table
from hm3rl.run.job import SearchResult

NAMES = ("translation", "math", "code", "sorting", "reversal")
BLENDS = ("agent=psl", "budget=30", "agent.first_steps=20", "agent.steps=5", "agent.fit_steps=10")


def shown(tasks: tuple[str, ...], *blocks: str) -> str:
    """A table of one model and one expert on a terminal of 80 columns."""
    row = {"name": "M00", "on_test_front": "0"}
    for block, value in zip(blocks, (0.61, 0.72, 0.83), strict=False):
        row |= {f"{block}_{task}": str(value) for task in tasks}
        row |= {f"{block}_{task}_se": str(value / 10) for task in tasks}
    experts = {tasks[0]: {block: [0.5] * len(tasks) for block in blocks}}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(rich_table([row], tasks, experts))
    return captured.get()


@pytest.mark.parametrize("tasks", [NAMES[:2], NAMES[:3], ("translation", "sorting", "reversal")])
def test_means_have_their_errors_beside_both_scores(tasks: tuple[str, ...]) -> None:
    text, count = shown(tasks, "posterior", "search", "test"), len(tasks)
    assert text.count("0.61±.06") == text.count("0.72") == text.count("0.83") == count
    assert text.count("0.50") == 3 * count
    assert max(map(len, text.splitlines())) <= 80


def test_with_many_objectives_means_and_test_scores_are_left() -> None:
    text = shown(NAMES, "posterior", "search", "test")
    assert text.count("0.61") == text.count("0.83") == 5 and "0.72" not in text


def test_without_means_both_scores_have_their_errors() -> None:
    text = shown(NAMES[:3], "search", "test")
    assert text.count("0.61±.06") == text.count("0.72±.07") == 3 and "means" not in text


def test_the_leaderboard_says_what_the_front_goes_by(
    searched: Callable[..., SearchResult],
) -> None:
    folder = searched(*BLENDS).folder
    text, (row, *_) = folder.leaderboard.read_text(), folder.read_front()
    assert "goes by posterior means" in text and "| posterior math |" in text
    mean, error = float(row["posterior_math"]), float(row["posterior_math_se"])
    assert f"{mean:.3f} ± {error:.3f}" in text
    plain = searched("budget=20").folder.leaderboard.read_text()
    assert "was chosen on the search split" in plain and "posterior" not in plain
    assert api.open_run(folder.path).find("M00") == row["key"]

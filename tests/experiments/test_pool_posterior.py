"""Fronts and choices by posterior means against those by scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.pools import posterior
from experiments.pools.posterior import Pair
from experiments.pools.results import Front, Key
from hm3rl.objectives.utility import Utility

HALF = [[1, 1, 1, 1], [1, 1, 0, 0]]
"""Which of four items of a task the experts `a` and `b` solve; of the other task, the reverse."""


def front(search: list[list[float]], models: dict[str, tuple[list[int], list[int]]]) -> Front:
    """The experts and models by key, with the items of both tasks that each solves."""
    rows = [[*HALF, *(one for one, _ in models.values())]]
    rows.append([*HALF[::-1], *(other for _, other in models.values())])
    return Front(
        key=Key("X", "none", 0, 40),
        commit="0123456789ab",
        experts=("a", "b"),
        models=tuple(models),
        solved={task: np.array(row, dtype=bool) for task, row in zip("ab", rows, strict=True)},
        search=np.array([[1.0, 0.5], [0.5, 1.0], *search]),
        volume=0.0,
    )


GOOD, POOR = ([1, 1, 1, 1], [1, 1, 1, 0]), ([1, 1, 1, 0], [1, 1, 0, 0])


def pair() -> Pair:
    """By scores a poor model looks good; means know better, and have a third model."""
    by_scores = front([[0.96, 0.96], [0.9, 0.9]], {"poor": POOR, "good": GOOD})
    three = {"good": GOOD, "poor": POOR, "other": POOR}
    by_means = front([[0.91, 0.91], [0.8, 0.7], [0.7, 0.8]], three)
    return Pair(by_scores, by_means, np.ones(2), Utility("weighted_sum"))


def test_as_many_models_of_each_front_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pair().count == 2
    assert pair().volumes(20).gain == pytest.approx(0.0)
    monkeypatch.setattr(posterior, "MODELS", 1)
    found = pair().volumes(20)
    # (1, 1/2) and (1/2, 1) dominate 3/4; (3/4, 1/2) adds nothing, (1, 3/4) another eighth.
    assert (found.scores, found.means) == pytest.approx((0.75, 0.875))
    assert found.error > 0


def test_what_is_chosen_for_a_preference_is_judged_by_other_items() -> None:
    found = pair().choices(20)
    # Of eleven preferences 0, 0.1, ..., 1 the two models win those in the middle: by scores
    # where 0.96 > 0.5 + 0.5 p, p the larger weight, and the experts at both ends.
    weights = np.linspace(0, 1, 11)
    ends = np.isin(weights, [0.0, 1.0])
    poor, good = 0.75 * weights + 0.5 * (1 - weights), weights + 0.75 * (1 - weights)
    by_means = np.where(np.maximum(weights, 1 - weights) > 0.85, 1, 0)
    expert = np.maximum(weights, 1 - weights) + 0.5 * np.minimum(weights, 1 - weights)
    assert found.scores == pytest.approx(np.where(ends, expert, poor).mean())
    assert found.means == pytest.approx(np.where(by_means, expert, good).mean())
    assert found.gain == found.means - found.scores > 0


def test_a_search_is_made_once_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--pools", "zoo", "--budget", "20", "--items", "24", "24", "--root", str(tmp_path)]
    posterior.main(words)
    said = capsys.readouterr().out
    (row,) = (line for line in said.splitlines() if line.startswith("| zoo |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    by_scores, by_means, gain = float(cells[5]), float(cells[6]), cells[7]
    assert float(gain.split(" ± ")[0]) == pytest.approx(by_means - by_scores, abs=1.1e-4)
    assert 0 < int(cells[3]) <= 24 and int(cells[4]) <= int(cells[3])

    def searched(*words: str) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr("hm3rl.api.search", searched)
    posterior.main(words)
    assert capsys.readouterr().out == said

"""Differences of two fronts over resampled items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from experiments.common.items import items_table, resampled, scores_by_item
from experiments.common.records import Record
from hm3rl.run.job import SearchResult

Run = Callable[..., SearchResult]


@pytest.fixture
def pair(searched: Run) -> list[Record]:
    """One run of hm3 and one of random search, as records."""
    made = {"hm3": searched("budget=20"), "random": searched("budget=20", "search=random")}
    return [Record(name, 0, 20, result.folder.path) for name, result in made.items()]


def test_without_resampling_it_is_the_test_hypervolume_of_the_search(pair: list[Record]):
    volumes = resampled(pair, resamples=0)
    assert volumes[:, 0] == pytest.approx([row.hypervolume("test") for row in pair])


def test_the_experts_are_among_the_models(pair: list[Record]):
    by_task, experts = scores_by_item(pair[0])
    assert experts.sum() == 3 < len(experts)
    means = np.stack([scores.mean(axis=1) for scores in by_task], axis=1)
    best = pair[0].summary["z_star"]["test"]
    assert means[experts].max(axis=0) == pytest.approx(best)


def test_every_search_is_asked_the_same_items(pair: list[Record]):
    ours, again = resampled([pair[0], pair[0]], resamples=20)
    assert (ours == again).all() and ours.std() > 0


def test_the_table_compares_runs_of_one_seed(pair: list[Record]):
    lines = items_table(pair, "hm3")
    gap = pair[0].hypervolume("test") - pair[1].hypervolume("test")
    assert len(lines) == 3
    assert lines[2].startswith(f"| random | 20 | 0 | {pair[1].hypervolume('test'):.4f} ")
    assert f"| {gap:+.4f} ± " in lines[2]
    elsewhere = Record("random", 1, 20, pair[1].folder)
    assert len(items_table([pair[0], elsewhere], "hm3")) == 2

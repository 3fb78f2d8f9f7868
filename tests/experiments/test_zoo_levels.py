"""The zoo's two plain searches and its tables, with a made-up score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from experiments.zoo.levels import pick_members, score_merges, search_paths
from experiments.zoo.settings import NAMES
from experiments.zoo.table import BEGIN, END, insert, levels_table, sources_table
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet


@pytest.fixture(scope="module")
def members() -> MemberSet:
    pool = ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in NAMES[1:]})
    return MemberSet(pool)


class ShareOfLayers:
    """Scores a path by the share of its layers that each expert lends; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        self.asked += [str(candidate.path) for candidate in candidates]
        shares = [
            [np.mean([ref.member == expert for ref in candidate.path.refs]) for expert in NAMES[1:]]
            for candidate in candidates
        ]
        return np.array(shares)


def test_merges_come_from_the_seed_and_are_distinct(members: MemberSet) -> None:
    score = ShareOfLayers()
    recipes, points = score_merges(members, score, 12, np.random.default_rng(0))
    again, _ = score_merges(members, score, 12, np.random.default_rng(0))
    assert [r.key for r in recipes] == [r.key for r in again]
    assert len({r.key for r in recipes}) == 12
    assert {r.operator for r in recipes} == {"task_arithmetic", "ties", "dare_ties"}
    assert points.shape == (12, 3)
    assert all(0.6 <= r.scale <= 3.0 for r in recipes)


def test_members_are_picked_by_the_hypervolume_they_add() -> None:
    own = np.eye(3)
    points = np.array([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [1.0, 0.2, 0.95], [0.8, 0.8, 0.8]])
    assert pick_members(points, own, 2) == [1, 2]


def test_paths_are_new_each_time_and_mix_members(members: MemberSet) -> None:
    score = ShareOfLayers()
    known = dict(zip(NAMES[1:], np.eye(3), strict=True))
    points = search_paths(members, score, known, [], 60, np.random.default_rng(0))
    assert points.shape == (60, 3)
    assert len(set(score.asked)) == 60
    assert not set(score.asked) & {str(Candidate.whole(n, 8).path) for n in known}
    assert points.sum(axis=1) == pytest.approx(np.ones(60))
    assert (points > 0).all(axis=1).any()


def test_tables_say_what_the_rows_say(tmp_path: Path) -> None:
    sources = [
        {
            "model": model,
            "split": split,
            "task": task,
            "score": 0.25,
            "standard_error": 0.03,
            "chrf": 0.5 if task == "translation" else "",
        }
        for model in NAMES
        for split in ("search", "test")
        for task in NAMES[1:]
    ]
    table = sources_table(sources)  # type: ignore[arg-type]
    assert table.count("0.250 ± 0.030") == 24
    rows = [
        {"method": method, "seed": seed, "evaluations": count, "hypervolume": value, "best_mean": 1}
        for seed in (0, 1)
        for method, count, value in (
            ("experts", 0, 0.2),
            ("merges", 30, 0.4 + 0.2 * seed),
            ("merges_then_paths", 30, 0.7),
        )
    ]
    levels = levels_table(rows)  # type: ignore[arg-type]
    assert "| 30 | 0.500 (0.400 to 0.600) | 0.700 (0.700 to 0.700) |" in levels
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    insert(readme, table)
    insert(readme, levels)
    text = readme.read_text()
    assert levels in text
    assert "old" not in text
    assert table not in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="no marks"):
        insert(readme, table)

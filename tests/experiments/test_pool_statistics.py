"""The statistics of the pools, with numbers computed by hand, and the table and figure of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from experiments.pools import figure, results, table
from experiments.pools.pools import pools
from experiments.pools.reference import Reference, freeze, measure, references
from experiments.pools.results import Front, Key
from experiments.pools.statistics import (
    basic,
    item_counts,
    over_tasks,
    ranks,
    shares,
    shares_over_items,
    volumes_over_items,
    weights_of,
    wins,
    without_each,
)


def front(pool: str, method: str, scores: list[float], seed: int = 0, budget: int = 40) -> Front:
    """Two experts that can do one of ten items of the other's task, and one model.

    The experts' points f / z* are (1, 0.1) and (0.1, 1), so their hypervolume is 0.19.
    """
    rows = [[10, 1], [1, 10], [round(10 * score) for score in scores]]
    solved = {
        task: np.array([[item < row[k] for item in range(10)] for row in rows])
        for k, task in enumerate(pools()[pool].tasks)
    }
    own = pools()[pool].experts
    search = np.array(rows) / 10
    return Front(Key(pool, method, seed, budget), "0" * 12, own, ("k",), solved, search, 0.5)


def test_share_and_reference_by_hand() -> None:
    fronts = [front("A01", "hm3", [0.5, 0.8]), front("A01", "map", [0.8, 0.5])]
    # Points (1, .1), (.1, 1), (.5, .8): .1 * 1 + .4 * .8 + .5 * .1.
    assert fronts[0].held_out == pytest.approx(0.47)
    found = measure(fronts)
    assert found.experts == pytest.approx(0.19)
    # With (.8, .5) too: .1 * 1 + .4 * .8 + .3 * .5 + .2 * .1.
    assert found.best == pytest.approx(0.59)
    assert found.methods == ("hm3", "map")
    assert found.share(0.47) == pytest.approx(0.28 / 0.40)
    assert Reference(0.2, 0.6, ()).share(0.2) == 0.0


def test_what_trains_on_the_tasks_is_no_part_of_the_reference() -> None:
    merged, trained = front("A01", "hm3", [0.5, 0.8]), front("A01", "multitask", [1.0, 1.0])
    assert measure([trained, merged]) == measure([merged])
    assert measure([merged]).share(trained.held_out) > 1.0


def test_ranks_and_wins_by_hand() -> None:
    values = np.array([[0.9, 0.5, 0.5], [0.1, 0.2, 0.3]])
    assert ranks(values) == pytest.approx(np.array([[1, 2.5, 2.5], [3, 2, 1]]))
    assert wins(values[:, 0], values[:, 1]).tolist() == [1.0, 0.0]
    assert wins(values[:, 1], values[:, 2]).tolist() == [0.5, 0.0]


def test_a_basic_interval_turns_the_errors_round() -> None:
    # Resamples from 2 to 6 around an estimate of 3: one below, three above.
    found = basic(3.0, np.array([2.0, 6.0]), level=1.0)
    assert found == (3.0, 0.0, 4.0)


def test_pools_count_by_the_product_of_their_tasks_counts() -> None:
    tasks = [("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
    counts = np.array([[1, 1, 1], [2, 1, 0], [3, 0, 0]])
    found = weights_of(counts, tasks)
    # Means over drawings: 3 * 2 / 9 for pairs, 3 * 2 * 1 / 27 for all three.
    assert found[0] == pytest.approx([1.5, 1.5, 1.5, 4.5])
    assert found[1] == pytest.approx([3.0, 0, 0, 0])
    assert found[2] == pytest.approx([0, 0, 0, 0])
    # Over all 27 drawings each pool counts once on average.
    grid = np.array(np.meshgrid(*[range(3)] * 3)).reshape(3, -1).T
    every = np.array([[(row == task).sum() for task in range(3)] for row in grid])
    assert weights_of(every, tasks).mean(axis=0) == pytest.approx([1, 1, 1, 1])


def test_the_interval_over_tasks_is_that_of_the_tasks_mean() -> None:
    """Shares that are sums of a task's effects: the error of the mean is that of T tasks."""
    rng = np.random.default_rng(0)
    names = [f"t{i}" for i in range(12)]
    effect = dict(zip(names, rng.normal(size=12), strict=True))
    tasks = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    values = np.array([(effect[a] + effect[b]) / 2 for a, b in tasks])
    found = over_tasks(values, tasks, resamples=4000)
    assert found.value == pytest.approx(np.mean(list(effect.values())))
    half = (found.high - found.low) / 2
    expected = 1.96 * np.std(list(effect.values())) / math.sqrt(12)
    assert half == pytest.approx(expected, rel=0.12)
    assert found.low < found.value < found.high


def test_equal_values_have_no_width_and_two_tasks_no_interval() -> None:
    tasks = [("a", "b"), ("a", "c"), ("b", "c")]
    assert over_tasks(np.full(3, 0.4), tasks) == pytest.approx((0.4, 0.4, 0.4))
    assert math.isnan(over_tasks(np.array([0.4]), [("a", "b")]).low)
    assert math.isnan(over_tasks(np.array([0.4]), [("a", "b", "c")]).low)  # one pool


def test_without_each_task_by_hand() -> None:
    tasks = [("a", "b"), ("a", "c"), ("a", "b", "c")]
    found = without_each(np.array([1.0, 2.0, 6.0]), tasks)
    assert found == {"b": 2.0, "c": 1.0}  # all pools have a


def test_items_of_a_task_are_drawn_alike_for_every_pool() -> None:
    one = item_counts({"dates": 10, "edits": 10}, 50)
    other = item_counts({"brackets": 10, "dates": 10}, 50)
    assert (one["dates"] == other["dates"]).all()
    assert (one["dates"] != one["edits"]).any()
    assert (one["dates"].sum(axis=0) == 10).all() and one["dates"].shape == (10, 50)


def test_hypervolumes_of_resampled_items_by_hand() -> None:
    one = front("A01", "hm3", [0.5, 0.8])
    once = {task: np.ones((10, 1), dtype=int) for task in one.tasks}
    # The first five items alone, twice: experts (1, .2), (.2, 1), the model 1 and 1.
    half = {task: np.array([[2]] * 5 + [[0]] * 5) for task in one.tasks}
    counts = {task: np.concatenate([once[task], half[task]], axis=1) for task in one.tasks}
    assert volumes_over_items(one, counts) == pytest.approx([0.47, 1.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two methods on all pools of set A with two experts, two seeds of one method, no room on A02.

    Shares are 0.7 and 0.7 (mirrored models) on pools with room.
    """
    for name, pool in pools("A").items():
        if len(pool.tasks) > 2:
            continue
        apart = name == "A02"
        points = [[0.1, 0.1], [0.1, 0.1]] if apart else [[0.5, 0.8], [0.8, 0.5]]
        results.add([front(name, "map", points[1])], "A", tmp_path)
        if name != "A03":
            results.add([front(name, "hm3", points[0])], "A", tmp_path)
            weak = front(name, "hm3", [0.1, 0.1], seed=1)
            results.add([weak], "A", tmp_path)
    freeze(list(pools("A")), tmp_path)
    return tmp_path


def test_shares_of_a_set(folder: Path) -> None:
    found = shares("A", 40, folder=folder)
    assert found.methods == ("map", "hm3")
    assert [pool.name for pool in found.pools] == ["A01", "A04", "A05", "A06"]
    assert found.of("map") == pytest.approx(np.full(4, 0.7))
    assert found.of("hm3") == pytest.approx(np.full(4, 0.35))  # the mean of 0.7 and 0
    assert list(found.apart) == ["A02"] and found.apart["A02"][0].room == pytest.approx(0.0)
    assert found.lacking == ("A03", "A07", "A08", "A09", "A10", "A11", "A12")
    assert shares("A", 40, ["map"], folder).lacking == ("A07", "A08", "A09", "A10", "A11", "A12")
    assert not len(shares("A", 100, folder=folder).pools)


def test_shares_on_resampled_items_are_means_over_pools_and_seeds(folder: Path) -> None:
    found = shares("A", 40, ["hm3"], folder)
    drawn = shares_over_items(found, 40, resamples=30, folder=folder)
    by_hand = np.zeros(30)
    for pool in found.pools:
        counts = item_counts(dict.fromkeys(pool.tasks, 10), 30)
        own = results.fronts(pool.name, folder)
        seeds = [volumes_over_items(own[Key(pool.name, "hm3", s, 40)], counts) for s in (0, 1)]
        by_hand += (np.mean(seeds, axis=0) - 0.19) / 0.4 / 4
    assert drawn.shape == (30, 1) and drawn[:, 0] == pytest.approx(by_hand)


def test_a_reference_is_frozen(folder: Path) -> None:
    before = references(folder)
    assert before["A01"].best == pytest.approx(0.59)
    results.add([front("A01", "nsga2", [0.9, 0.9])], "A", folder)
    assert freeze(["A01", "A07"], folder) == []
    assert references(folder) == before
    assert shares("A", 40, ["nsga2"], folder).values[0, 0] > 1


def test_the_table_and_the_figure(folder: Path) -> None:
    table.main(["--set", "A", "--reference", "hm3", "--results", str(folder)])
    text = (folder / "table_A.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(("| map", "| hm3"))]
    first, second = ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    assert first[:5] == ["map", "40", "4", "0.700 [0.700, 0.700]", "1.00 [1.00, 1.00]"]
    assert first[5] == "0.00 [0.00, 0.00]" and first[6].startswith("-0.350 [")
    assert first[7] == "-0.350 to -0.350" and first[8].startswith("[")
    assert second[:4] == ["hm3", "40", "4", "0.350 [0.350, 0.350]"] and second[5:] == [""] * 4
    assert "- A02 at 40 stands apart" in text and "lack results or a reference: A03" in text
    figure.main(["--set", "A", "--results", str(folder)])
    assert (folder / "share_A.png").stat().st_size > 5000


def test_methods_that_were_on_few_pools_do_not_shorten_a_table_they_are_not_in(
    folder: Path,
) -> None:
    results.add([front("A01", "nsga2", [0.9, 0.9])], "A", folder)
    words = ["--set", "A", "--reference", "hm3", "--results", str(folder)]
    table.main(words)
    assert "| map | 40 | 1 |" in (folder / "table_A.md").read_text()
    table.main([*words, "--methods", "hm3", "map"])
    text = (folder / "table_A.md").read_text()
    assert "| map | 40 | 4 |" in text and "nsga2" not in text


def test_a_table_goes_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- table A -->\nold\n<!-- end of table A -->\nb\n")
    assert table.insert(readme, "A", "new")
    assert readme.read_text() == "a\n<!-- table A -->\n\nnew\n\n<!-- end of table A -->\nb\n"
    assert not table.insert(readme, "B", "new")

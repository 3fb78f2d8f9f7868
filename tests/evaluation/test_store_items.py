"""What is known of single items, and evaluations of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import Condition, EvaluationStore

HERE = Condition("suite", "search", "float32", "torch-cpu")
QUARTER, HALF = HERE._replace(fidelity="items:0.25"), HERE._replace(fidelity="items:0.5")
PROXY = HERE._replace(fidelity="proxy:0.5")


def scored(key: str, *values: float, items: Sequence[int] | None = None) -> Evaluation:
    array = np.array(values)
    return Evaluation.of_items(
        key,
        "search",
        {"t": array},
        {"t": array + 1},
        None,
        {"model": 1.0},
        items=None if items is None else {"t": items},
    )


@pytest.fixture
def store(tmp_path: Path) -> EvaluationStore:
    return EvaluationStore(tmp_path / "s")


def test_items_of_all_fidelities_are_put_together(store: EvaluationStore) -> None:
    store.put(scored("k", 0.25, 0.75, items=[1, 5]), {}, QUARTER)
    store.put(scored("k", 0.25, 0.5, 0.75, 1.0, items=[1, 2, 5, 7]), {}, HALF)
    store.put(scored("other", 0.0, 1.0, items=[0, 1]), {}, QUARTER)
    known = store.items(["k", "other", "nobody"], HERE)
    assert known.keys() == {"k", "other"}
    assert known["k"]["t"].items.tolist() == [1, 2, 5, 7]
    assert known["k"]["t"].scores.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert known["k"]["t"].nll.tolist() == [1.25, 1.5, 1.75, 2.0]
    assert store.get(["k"], QUARTER)["k"].per_item["t"].tolist() == [0.25, 0.75]
    assert store.get(["k"], HALF)["k"].scores == (0.625,)
    assert store.get(["k"], HERE) == {}


def test_a_full_evaluation_knows_all_items(store: EvaluationStore) -> None:
    store.put(scored("k", 0.0, 0.5, 1.0), {}, HERE)
    assert store.items(["k"], QUARTER)["k"]["t"].items.tolist() == [0, 1, 2]


def test_of_an_item_scored_twice_the_first_score_counts(store: EvaluationStore) -> None:
    store.put(scored("k", 0.25, 0.5, items=[3, 4]), {}, QUARTER)
    store.put(scored("k", 1.0, 1.0, items=[4, 6]), {}, HALF)
    assert store.items(["k"], HERE)["k"]["t"].scores.tolist() == [0.25, 0.5, 1.0]


def test_proxies_and_scores_are_not_mixed(store: EvaluationStore) -> None:
    store.put(scored("k", 0.25, 0.5, items=[0, 1]), {}, PROXY)
    assert store.items(["k"], HERE) == {}
    assert store.items(["k"], HERE._replace(fidelity="proxy"))["k"]["t"].items.tolist() == [0, 1]
    store.put(scored("k", 1.0, 1.0, items=[0, 2]), {}, HALF)
    assert store.items(["k"], PROXY)["k"]["t"].scores.tolist() == [0.25, 0.5]
    assert store.items(["k"], HERE)["k"]["t"].scores.tolist() == [1.0, 1.0]


def test_other_conditions_know_nothing_of_it(store: EvaluationStore) -> None:
    store.put(scored("k", 0.25, 0.5), {}, HERE)
    for other in ({"suite": "s"}, {"split": "test"}, {"dtype": "bfloat16"}, {"backend": "b"}):
        assert store.items(["k"], HERE._replace(**other)) == {}  # type: ignore[arg-type]


def test_an_evaluation_says_which_items_it_is_of(store: EvaluationStore) -> None:
    store.put(scored("k", 0.25, 0.5, items=[3, 4]), {}, QUARTER)
    store.put(scored("k", 0.25, 0.5, 0.75), {}, HERE)
    assert store.get(["k"], QUARTER)["k"].items["t"].tolist() == [3, 4]
    assert store.get(["k"], HERE)["k"].items["t"].tolist() == [0, 1, 2]

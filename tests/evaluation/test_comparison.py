"""Paired comparisons against closed forms and simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hm3rl.evaluation.comparison import paired_difference
from hm3rl.evaluation.result import Evaluation


def scored(
    values: Sequence[float] | np.ndarray, items: Sequence[int] | None = None, fidelity: str = "full"
) -> Evaluation:
    array = np.asarray(values, float)
    numbers = None if items is None else {"t": items}
    return Evaluation.of_items(
        "k", "search", {"t": array}, {"t": array}, None, {}, numbers, fidelity
    )


def test_mcnemar_counts_only_where_they_differ() -> None:
    first, second = scored([1, 1, 1, 1, 1, 0, 1, 0]), scored([0, 0, 0, 0, 0, 1, 1, 0])
    found = paired_difference(first, second)["t"]
    gaps = np.array([1, 1, 1, 1, 1, -1, 0, 0])
    assert found.mean == 0.5 and found.items == 8
    assert found.standard_error == pytest.approx(gaps.std(ddof=1) / np.sqrt(8))
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)  # 5 of 6 heads or more, both sides
    other = paired_difference(second, first)["t"]
    assert (other.mean, other.p_value) == (-0.5, pytest.approx(found.p_value))


def test_graded_scores_use_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.1, 0.9, 400)  # items differ far more than candidates do
    first, second = scored(hard + 0.02), scored(hard + rng.normal(0, 0.05, 400).clip(-0.1, 0.1))
    found = paired_difference(first, second)["t"]
    assert abs(found.mean - 0.02) < 0.01
    unpaired = np.hypot(first.standard_errors[0], second.standard_errors[0])
    assert found.standard_error < unpaired / 5
    assert found.p_value < 1e-6


def test_only_items_both_were_asked_count() -> None:
    first = scored([1, 0, 1, 1], items=[0, 2, 5, 7], fidelity="items:0.5")
    second = scored([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    found = paired_difference(first, second)["t"]
    assert found.items == 4 and found.mean == pytest.approx((1 + 0 + 0 + 0) / 4)


def test_equals_do_not_differ() -> None:
    for values in ([1, 0, 1], [0.3, 0.5, 0.2]):
        found = paired_difference(scored(values), scored(values))["t"]
        assert (found.mean, found.standard_error, found.p_value) == (0.0, 0.0, 1.0)
    assert paired_difference(scored([0.6, 0.7]), scored([0.5, 0.6]))["t"].p_value < 1e-6


def test_what_cannot_be_compared_is_refused() -> None:
    failed = Evaluation.failure("k", "search", ("t",), "Trace", {})
    with pytest.raises(ValueError, match="failed"):
        paired_difference(scored([1, 0]), failed)
    with pytest.raises(ValueError, match="cannot be compared"):
        paired_difference(scored([1, 0]), scored([1, 0], fidelity="proxy"))
    with pytest.raises(ValueError, match="only 1 items"):
        paired_difference(scored([1, 0], items=[0, 1]), scored([1, 0], items=[1, 2]))

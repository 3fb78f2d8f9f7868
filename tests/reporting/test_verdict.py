"""Sentences about a front, from its numbers."""

from __future__ import annotations

from hm3rl.objectives.utility import Utility
from hm3rl.reporting.verdict import just_an_expert, none_is_good, verdict

BLENDS = {"uniform 0.5": [0.4, 0.5], "uniform 1": [0.6, 0.7]}
EXPERTS = {"math": [1.0, 0.3], "code": [0.2, 1.0]}


def test_a_good_model_is_named_with_what_it_keeps_and_what_an_expert_does():
    front = {"M00": [1.0, 0.4], "M01": [0.9, 0.85]}
    tested = {"M00": [1.0, 0.4], "M01": [0.95, 0.79]}
    assert verdict(front, tested, EXPERTS, BLENDS) == (
        "M01 keeps 85% of the best expert's score on every task (79% on the test split); the most "
        "even expert, math, 30%, and the blend uniform 1, which nobody searched for, 60%."
    )


def test_where_no_model_is_good_at_all_tasks_that_is_said():
    front = {"M00": [1.0, 0.4], "M01": [0.6, 0.5]}
    assert verdict(front, front, EXPERTS, {}).startswith("No model keeps 80%")
    assert "M01, the most even one, keeps 50%" in verdict(front, front, EXPERTS, {})
    assert none_is_good("M01", 0.5) and none_is_good("M01", 0.9) is None


def test_where_no_merge_is_more_even_than_an_expert_that_is_said():
    front = {"M00": [1.0, 0.3], "M01": [0.2, 1.0]}
    assert verdict(front, front, EXPERTS, {}).startswith(
        "No merge is more even than an expert: math"
    )


def test_of_a_model_that_failed_on_the_test_split_no_share_is_said():
    front, failed = {"M01": [0.9, 0.85]}, {"M01": [float("nan")] * 2}
    assert "test split" not in verdict(front, failed, EXPERTS, {})


def test_an_expert_that_was_picked_by_a_weighted_sum_is_no_last_word():
    assert "--utility balance" in just_an_expert("math", Utility())
    assert "--utility" not in just_an_expert("math", Utility().balanced)

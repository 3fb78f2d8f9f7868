"""Metrics per item."""

from __future__ import annotations

import pytest
from sacrebleu.metrics.chrf import CHRF

from hm3rl.tasks.metrics import (
    chrf,
    contains,
    exact_match,
    extract_program,
    regex,
    same_number,
)


def test_exact_match_ignores_white_space_only() -> None:
    assert exact_match("  le\tchat \n", "le chat") == 1.0
    assert exact_match("le Chat", "le chat") == 0.0
    assert exact_match("le chat noir", "le chat") == 0.0


@pytest.mark.parametrize("output", ["le chat", "le chien", "", "un gros chat noir"])
def test_chrf_is_sacrebleus_divided_by_hundred(output: str) -> None:
    assert chrf(output, "le chat") == CHRF().sentence_score(output, ["le chat"]).score / 100


def test_text_metrics_give_one_to_the_reference_and_stay_in_the_unit_interval() -> None:
    for metric in (exact_match, contains, same_number, regex, chrf):
        assert metric("the 3 cats sat", "the 3 cats sat") == pytest.approx(1.0)
        assert 0.0 <= metric("zzz", "the 3 cats sat") < 0.2


@pytest.mark.parametrize(
    ("output", "reference", "score"),
    [
        ("She pays 3 x $1,200 = $3,600.", "#### 3600", 1.0),
        ("The answer is 7, not 8.", "7", 0.0),
        ("-5", "5", 0.0),
        ("about .5", "0.50", 1.0),
        ("no idea", "5", 0.0),
    ],
)
def test_of_numbers_the_last_counts(output: str, reference: str, score: float) -> None:
    assert same_number(output, reference) == score


def test_numbers_within_the_tolerance_are_the_same() -> None:
    assert same_number("3.14", "3.14159", 0.01) == 1.0 and same_number("3.14", "3.14159") == 0.0


def test_an_answer_may_hold_the_reference_or_match_it() -> None:
    assert contains("It is Paris,  France.", "Paris, France") == 1.0
    assert contains("paris", "Paris") == 0.0
    assert regex("Answer: (B)", r"\(B\)\s*$") == 1.0 and regex("Answer: B", r"\(B\)") == 0.0


def test_a_program_is_taken_out_of_its_fence() -> None:
    fenced = "Here it is:\n```python\ndef f(x):\n    return x\n```\nDone."
    assert extract_program(fenced) == "def f(x):\n    return x\n"
    assert extract_program("```\nf = abs") == "f = abs"
    assert extract_program("def f(x): return x") == "def f(x): return x"

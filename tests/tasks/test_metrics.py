"""Metrics per item."""

from __future__ import annotations

import pytest
from sacrebleu.metrics.chrf import CHRF

from hm3rl.tasks.metrics import TEXT_METRICS, chrf, exact_match, extract_program


def test_exact_match_ignores_white_space_only() -> None:
    assert exact_match("  le\tchat \n", "le chat") == 1.0
    assert exact_match("le Chat", "le chat") == 0.0
    assert exact_match("le chat noir", "le chat") == 0.0


@pytest.mark.parametrize("output", ["le chat", "le chien", "", "un gros chat noir"])
def test_chrf_is_sacrebleus_divided_by_hundred(output: str) -> None:
    assert chrf(output, "le chat") == CHRF().sentence_score(output, ["le chat"]).score / 100


def test_text_metrics_give_one_to_the_reference_and_stay_in_the_unit_interval() -> None:
    for metric in TEXT_METRICS.values():
        assert metric("the cat sat", "the cat sat") == pytest.approx(1.0)
        assert 0.0 <= metric("zzz", "the cat sat") < 0.2


def test_a_program_is_taken_out_of_its_fence() -> None:
    fenced = "Here it is:\n```python\ndef f(x):\n    return x\n```\nDone."
    assert extract_program(fenced) == "def f(x):\n    return x\n"
    assert extract_program("```\nf = abs") == "f = abs"
    assert extract_program("def f(x): return x") == "def f(x): return x"

"""Per-item metrics in [0, 1], higher is better."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from sacrebleu.metrics.chrf import CHRF

METRICS = ("exact_match", "chrf", "pass_at_1")
"""Names of the metrics that a user's own task may ask for."""

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def normalise(text: str) -> str:
    """Collapse white space, so that decoding details cannot decide a score."""
    return " ".join(text.split())


def exact_match(output: str, reference: str) -> float:
    """Return 1 if both texts are equal up to white space, else 0."""
    return float(normalise(output) == normalise(reference))


@lru_cache(maxsize=1)
def _chrf() -> CHRF:
    return CHRF()


def chrf(output: str, reference: str) -> float:
    """Return the sentence chrF (Popović 2015) as sacrebleu computes it, divided by 100.

    Its floor is not zero: unrelated sentences of one language score about 0.1 to 0.2.
    """
    return float(_chrf().sentence_score(normalise(output), [normalise(reference)]).score) / 100.0


def extract_program(output: str) -> str:
    """Return the first fenced code block of an answer, or the whole answer if there is none."""
    found = _FENCE.search(output)
    return found.group(1) if found else output


TEXT_METRICS: dict[str, Callable[[str, str], float]] = {"exact_match": exact_match, "chrf": chrf}
"""Metrics that compare an output with its reference."""

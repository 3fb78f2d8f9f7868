"""Per-item metrics in [0, 1], higher is better."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from sacrebleu.metrics.chrf import CHRF

METRICS = ("exact_match", "contains", "number", "regex", "chrf", "pass_at_1")
"""Names of the metrics that a user's own task may ask for."""

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def normalise(text: str) -> str:
    """Collapse white space, so that decoding details cannot decide a score."""
    return " ".join(text.split())


def exact_match(output: str, reference: str) -> float:
    """Return 1 if both texts are equal up to white space, else 0."""
    return float(normalise(output) == normalise(reference))


def contains(output: str, reference: str) -> float:
    """Return 1 if the reference stands anywhere in the output, up to white space, else 0."""
    return float(normalise(reference) in normalise(output))


def last_number(text: str) -> float | None:
    """The last number of a text; signs of dollars and commas of thousands are passed over."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace("$", "").replace(",", "")) if found else None


def same_number(output: str, reference: str, tolerance: float = 0.0) -> float:
    """Return 1 if the last number of both is the same, as GSM8K's flexible match, else 0.

    Args:
        output: The answer, with its working or without.
        reference: Its last number counts, too.
        tolerance: Largest difference that still counts as the same.
    """
    said, meant = last_number(output), last_number(reference)
    return float(said is not None and meant is not None and abs(said - meant) <= tolerance)


def regex(output: str, reference: str) -> float:
    """Return 1 if the reference, a regular expression of Python's, matches anywhere, else 0."""
    return float(re.search(reference, output) is not None)


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


TEXT_METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "contains": contains,
    "number": same_number,
    "regex": regex,
    "chrf": chrf,
}
"""Metrics that compare an output with its reference."""

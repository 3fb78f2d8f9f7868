"""Per-item metrics in [0, 1], higher is better; what ships is listed in `hm3rl.registry`.

There are three kinds, told apart by the traits of a part: of a *text* (output and reference give a
score; one without traits, as a plugin's), of a *program* (it is run against the item's tests), and
of *choices* (choices and their log-likelihoods give the place of the one that is taken).
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from sacrebleu.metrics.chrf import CHRF

from hm3rl import registry
from hm3rl.errors import InputError

Kind = Literal["text", "program", "choices"]

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


def likeliest(choices: Sequence[str], likelihoods: Sequence[float]) -> int:
    """Place of the choice of the largest log-likelihood, the first of equals: lm-eval's `acc`."""
    return likelihoods.index(max(likelihoods))


def likeliest_by_length(choices: Sequence[str], likelihoods: Sequence[float]) -> int:
    """The same of log-likelihoods divided by the choices' lengths: lm-eval's `acc_norm`.

    Lengths are in characters, without white space around, which lm-eval adds on its own.
    """
    pairs = zip(choices, likelihoods, strict=True)
    return likeliest(choices, [likelihood / len(text.strip()) for text, likelihood in pairs])


def kind_of(metric: str) -> Kind:
    """What a metric judges.

    Raises:
        InputError: There is none of that name.
    """
    kind: Kind = registry.find("metric", metric).traits or "text"
    return kind


def version_of_metric(metric: str) -> str:
    """What a metric adds to a task's version: nothing if it ships, else a hash of its source.

    That of its whole file, since it may call other functions there; in a notebook of its own cell.

    Raises:
        InputError: There is no source.
    """
    if registry.is_shipped("metric", metric):
        return ""
    measure = registry.find("metric", metric).load()
    try:
        file = getattr(sys.modules[measure.__module__], "__file__", None)
        source = inspect.getsource(measure) if file is None else Path(file).read_text("utf-8")
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"the metric {metric!r} has no source that says whether it has changed ({error})",
            "write it into a file, and name that: plugins=[FILE.py]",
        ) from None
    return f"+{metric} {hashlib.sha256(source.encode()).hexdigest()[:16]}"

"""The proposer of `moholl` that asks a language model: what it is told, and what it may answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.search.language_model import BadAnswer, Conversation
from hm3rl.search.region_proposers import Known, RandomProposer
from hm3rl.search.regions import Region

HISTORY = 110
"""Evaluated vectors that a question tells, the last ones, in random order."""

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n```", re.DOTALL)

KEY = "configurations"


class LanguageProposer:
    """Asks a language model; a region for which it has no usable answer is filled at random.

    Args:
        conversation: Asks, again where that helps, and writes everything down.
        problem: Its logger hears how many regions were answered for.
        otherwise: Who fills a region in the model's place.
    """

    def __init__(
        self, conversation: Conversation, problem: MergeProblem, otherwise: RandomProposer
    ) -> None:
        self._conversation = conversation
        self._problem = problem
        self._otherwise = otherwise
        self.answered = 0
        self.unanswered = 0

    def propose(
        self, known: Known, region: Region, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """See `Proposer.propose`."""
        last = np.arange(len(known.vectors))[-HISTORY:]
        text = question(known, self._problem.objectives, region, rng.permutation(last), count)
        # Drawn in any case: what chance gives later must not depend on an answer.
        drawn = self._otherwise.propose(known, region, count, rng)
        found = self._conversation.ask(text, lambda answer: read_answer(answer, region, count))
        self.answered += found is not None
        self.unanswered += found is None
        counts = {"moholl/answered": self.answered, "moholl/unanswered": self.unanswered}
        self._problem.logger.metrics(self._problem.used, {k: float(v) for k, v in counts.items()})
        return drawn if found is None else found


def question(
    known: Known, objectives: Sequence[str], region: Region, told: np.ndarray, count: int
) -> str:
    """What a language model is asked.

    Args:
        known: What was evaluated.
        objectives: Names of the K objectives.
        region: Where proposals are wanted.
        told: Indexes of the evaluated vectors that it is told, in this order.
        count: How many proposals are wanted.
    """
    names = known.encoding.names
    history = [
        f"{_numbers(known.vectors[i])} -> "
        + ", ".join(
            f"{name} {score:.3f}" for name, score in zip(objectives, known.scores[i], strict=True)
        )
        for i in told
    ]
    bounds = [
        f"{name}: from {low:.10g} to {high:.10g}"
        for name, low, high in zip(names, region.lower, region.upper, strict=True)
    ]
    example = json.dumps({KEY: [["..."]]}).replace('"..."', "...")
    return "\n".join(
        [
            f"A configuration is a list of {len(names)} numbers. Each says how much of one expert "
            "model goes into one part of a merged model.",
            f"In this order: {', '.join(names)}.",
            f"Objectives, all to be maximised: {', '.join(objectives)}. 1 is as good as the best "
            "expert.",
            "Evaluated so far, in no particular order:",
            *history,
            f"Propose {count} new configurations that add as much as possible to the hypervolume "
            "dominated by all of them together. Each number must lie within these bounds:",
            *bounds,
            f"Answer with nothing but JSON of this form, {count} lists of {len(names)} numbers:",
            example,
        ]
    )


def read_answer(text: str, region: Region, count: int) -> np.ndarray:
    """The configurations of an answer, which must be JSON and nothing else (a fence may be around).

    Args:
        text: The answer.
        region: Where they must lie.
        count: How many there must be.

    Returns:
        Shape (count, D).

    Raises:
        BadAnswer: It is anything else.
    """
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadAnswer("it is not JSON alone") from None
    if not isinstance(found, dict) or set(found) != {KEY} or not isinstance(found[KEY], list):
        raise BadAnswer(f'it is no JSON object with a list of "{KEY}" and nothing else')
    if len(found[KEY]) != count:
        raise BadAnswer(f"it has {len(found[KEY])} configurations instead of {count}")
    size = len(region.lower)
    for place, row in enumerate(found[KEY], start=1):
        if not isinstance(row, list) or not all(map(_is_number, row)):
            raise BadAnswer(f"configuration {place} is no list of numbers")
        if len(row) != size:
            raise BadAnswer(f"configuration {place} has {len(row)} numbers instead of {size}")
        outside = (np.array(row) < region.lower) | (np.array(row) > region.upper)
        if outside.any():
            entry = int(outside.argmax())
            raise BadAnswer(
                f"number {entry + 1} of configuration {place}, {row[entry]:.10g}, is not from "
                f"{region.lower[entry]:.10g} to {region.upper[entry]:.10g}"
            )
    return np.array(found[KEY], float)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(vector: np.ndarray) -> str:
    return json.dumps([float(value) for value in vector])

"""Multiple choice by likelihood: from the likelihoods of choices to what a model takes.

The log-likelihood of a choice is the sum over its tokens, given the prompt and without an end
token, as the lm-evaluation-harness has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hm3rl.evaluation.requests import Request


class Chosen(NamedTuple):
    """What a model takes of the choices of n items.

    Attributes:
        texts: The choice by the task's metric.
        scores: 1 where that is the reference, else 0, shape (n,).
        nll: Mean negative log-likelihood per token of the reference, shape (n,).
        further: Scores by the metrics that are reported beside, each of shape (n,).
    """

    texts: list[str]
    scores: np.ndarray
    nll: np.ndarray
    further: dict[str, np.ndarray]


def choose(request: Request, nll: np.ndarray, numbers: Sequence[int]) -> Chosen:
    """Let a task whose items have choices say what a model takes.

    Args:
        request: The items.
        nll: Mean negative log-likelihood per token of each row of the request, shape (rows,).
        numbers: Items of the request.

    Returns:
        What it takes, in the order of `numbers`.
    """
    task = request.task
    texts: list[str] = []
    likelihoods: list[float] = []
    scores: dict[str, list[float]] = {}
    for number in numbers:
        item, rows = request.items[number], request.rows(number)
        sums = [-float(nll[row]) * len(request.encoded[row].answer) for row in rows]
        taken = {name: item.choices[place] for name, place in task.choose(item, sums).items()}
        for name, text in taken.items():
            scores.setdefault(name, []).append(float(text == item.reference))
        texts.append(taken[task.metric])
        likelihoods.append(float(nll[rows[item.choices.index(item.reference)]]))
    further = {name: np.array(found) for name, found in scores.items() if name != task.metric}
    return Chosen(texts, np.array(scores[task.metric]), np.array(likelihoods), further)

"""Scoring on a task of the lm-evaluation-harness, with the model handed over in memory.

The harness's own cache of requests stays off: it knows a request by its text, not by the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hm3rl.evaluation.memory import is_out_of_memory, too_little_memory
from hm3rl.tasks.base import Item
from hm3rl.tasks.harness import HarnessTask, quiet_harness


def harness_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: HarnessTask,
    items: Sequence[Item],
    batch_size: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What `harness_answers` scores, without what the model said."""
    return harness_answers(model, tokenizer, task, items, batch_size)[:2]


def harness_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: HarnessTask,
    items: Sequence[Item],
    batch_size: int,
) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Run the harness's requests and let it score the responses.

    Args:
        model: Any causal language model of transformers.
        tokenizer: Its tokenizer.
        task: The task.
        items: Items of the task.
        batch_size: Most requests in one forward pass; halved when memory runs out.

    Returns:
        The task's metric per item, shape (items,), as the harness reports it; likewise the metrics
        that are reported beside it, by name; and what the model said to each.

    Raises:
        HM3Error: Memory does not suffice for a single request.
    """
    while True:
        requests = task.requests(items)
        try:
            with _harness_model(model, tokenizer, batch_size) as harness_model:
                _run(harness_model, [request for of_item in requests for request in of_item])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise too_little_memory() from error
            batch_size //= 2
        else:
            scores = np.array(task.judge(requests))
            further = {name: np.array(v) for name, v in task.judge_further(requests).items()}
            return scores, further, [_said(of_item) for of_item in requests]


def _said(requests: Sequence[Any]) -> str:
    """What a model said to an item: the text, or the continuation it thinks most likely."""
    first = requests[0]
    if first.request_type == "generate_until":
        return str(first.resps[0])
    if len(requests) > 1:
        best = max(requests, key=lambda request: float(request.resps[0][0]))
        return str(best.arguments[1])
    likelihood, greedy = first.resps[0]
    return f"log-likelihood {likelihood:.2f}, {'' if greedy else 'not '}what it would say itself"


def _run(harness_model: Any, requests: Sequence[Any]) -> None:
    """Put the model's responses into requests of one kind."""
    repeated = [request for request in requests for _ in range(request.repeats or 1)]
    answers = getattr(harness_model, repeated[0].request_type)(repeated, disable_tqdm=True)
    for request, response in zip(repeated, answers, strict=True):
        request.resps.append(response)


@contextmanager
def _harness_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> Iterator[Any]:
    from lm_eval.models.huggingface import HFLM

    # It would tie the head to the embedding again, and a candidate's may be of different members.
    model.__dict__["tie_weights"] = lambda *_, **__: None
    try:
        with quiet_harness():
            # It changes padding of the tokenizer, hence a copy.
            yield HFLM(
                pretrained=model,
                backend="causal",
                tokenizer=copy.deepcopy(tokenizer),
                batch_size=batch_size,
            )
    finally:
        del model.__dict__["tie_weights"]

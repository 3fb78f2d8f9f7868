"""From a model and a request to what the model answers, with as little computing as is exact.

One teacher-forced pass scores the likelihood of all references and finds the items that greedy
decoding answers with the reference. Only the others are decoded, and only if their text matters:
where anything but the reference scores 0 and the tokenizer writes every text in one way only, it
does not. Items whose leads are within the numerical error are always decoded from their prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hm3rl.errors import HM3Error
from hm3rl.evaluation.generation import Prefixes, decode_greedily
from hm3rl.evaluation.requests import Batch, Request
from hm3rl.evaluation.scoring import ForcedBatch, teacher_forced

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """What a model answers to the items of a request.

    Attributes:
        tokens: Answer ids of each item without the end token; None where decoding was spared
            because the answer is known to differ from the reference.
        nll: Mean negative log-likelihood per reference token, shape (items,).
        decoded: Number of items that were decoded.
    """

    tokens: list[list[int] | None]
    nll: np.ndarray
    decoded: int


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those of the model's generation config."""
    config = getattr(model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    more = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(e) for e in (tokenizer.eos_token_id, *more) if e is not None)


def one_spelling(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether different tokens always read differently, as in word-level vocabularies."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and isinstance(backend.model, WordLevel)


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    all_texts: bool,
    decode: bool = True,
) -> Answers:
    """Answer all items in the batches of a request.

    Args:
        model: Any causal language model of transformers.
        request: The items.
        tokenizer: The model's tokenizer.
        batch_size: Most rows decoded together.
        all_texts: Whether the text of every answer is needed.
        decode: Whether to decode at all; without, only items that greedy decoding answers with the
            reference get tokens.

    Returns:
        The answers; of items in no batch, no tokens and a likelihood of 0.

    Raises:
        InvalidLogitsError: The model puts out NaN or infinite logits.
    """
    ends = end_tokens(model, tokenizer)
    special = frozenset(tokenizer.all_special_ids) - ends
    spared = request.task.exact_only and one_spelling(tokenizer) and not all_texts
    tokens: list[list[int] | None] = [None] * len(request.items)
    nll = np.zeros(len(request.items))
    waiting: list[Prefixes] = []
    decoded = 0

    def flush() -> None:
        nonlocal decoded
        if waiting:
            rows = Prefixes.joined(waiting)
            waiting.clear()
            decoded += len(rows)
            limit = request.task.max_new_tokens
            for item, ids in zip(rows.items, _decode(model, rows, ends, limit), strict=True):
                tokens[item] = ids

    for whole in request.batches:
        for forced in _forced(model, whole, ends, keep_cache=decode and not spared):
            nll[list(forced.batch.rows)] = forced.nll.double().cpu().numpy()
            rows, keep = _to_decode(forced, special, spared) if decode else ([], [])
            for row in set(range(len(forced.batch.rows))) - set(rows):
                if bool(forced.exact[row]):
                    item = forced.batch.rows[row]
                    tokens[item] = list(request.encoded[item].answer[:-1])
            if rows and forced.cache is None:  # rare, so the cache is made when needed
                forced = teacher_forced(model, forced.batch, ends, keep_cache=True)
            if rows:
                waiting.append(Prefixes.cut(forced, rows, keep))
            if sum(map(len, waiting)) >= batch_size:
                flush()
    flush()
    return Answers(tokens, nll, decoded)


def _to_decode(
    forced: ForcedBatch, special: Collection[int], spared: bool
) -> tuple[list[int], list[int]]:
    """Choose the rows to decode and how many agreed answer tokens each may keep."""
    rows: list[int] = []
    keep: list[int] = []
    columns = (forced.exact, forced.safe, forced.agreed, forced.next_token)
    for row, (exact, safe, agreed, following) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        # A special token vanishes from the text, so what follows may still be the reference.
        if safe and (exact or (spared and following not in special)):
            continue
        rows.append(row)
        keep.append(agreed if safe else 0)
    return rows, keep


def _forced(
    model: PreTrainedModel, batch: Batch, ends: Collection[int], keep_cache: bool
) -> list[ForcedBatch]:
    return _in_memory(
        lambda rows: teacher_forced(model, rows, ends, keep_cache), batch, Batch.halves
    )


def _decode(
    model: PreTrainedModel, prefixes: Prefixes, ends: Collection[int], limit: int
) -> list[list[int]]:
    def halves(rows: Prefixes) -> tuple[Prefixes, Prefixes]:
        middle = len(rows) // 2
        if middle == 0:
            raise ValueError("one row cannot be split")
        return rows.part(slice(0, middle)), rows.part(slice(middle, None))

    parts = _in_memory(lambda rows: decode_greedily(model, rows, ends, limit), prefixes, halves)
    return [ids for part in parts for ids in part]


def _in_memory(work: Callable[[S], T], rows: S, halves: Callable[[S], tuple[S, S]]) -> list[T]:
    """Do the work on all rows, or on half of them at a time, as often as memory demands."""
    try:
        return [work(rows)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    try:
        first, second = halves(rows)
    except ValueError:
        raise HM3Error(
            "memory does not suffice to score a single item with this model; "
            "free some, or use pool.dtype=bfloat16"
        ) from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [*_in_memory(work, first, halves), *_in_memory(work, second, halves)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on whatever device."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )

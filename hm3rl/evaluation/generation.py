"""Batched greedy decoding that goes on from the states of a teacher-forced pass.

Rows of different length stand flush right in one cache, finished rows are dropped on the way, and
the loop ends with its last row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from hm3rl.evaluation.scoring import ForcedBatch, check_finite

DROP_SHARE = 0.2
"""Share of finished rows from which on they are dropped; dropping copies the cache."""


@dataclass(frozen=True)
class Prefixes:
    """Rows waiting to be decoded.

    Attributes:
        items: Number of each row's item in its request.
        answers: Answer tokens of each row so far; the last one has not been fed to the model.
        lengths: Tokens of each row in the cache, shape (B,).
        keys: By layer, shape (B, heads, W, head size), flush right; W is the greatest length.
        values: The same.
    """

    items: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    lengths: torch.Tensor
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @classmethod
    def cut(cls, forced: ForcedBatch, rows: Sequence[int], keep: Sequence[int]) -> Prefixes:
        """Cut the states up to some answer token out of a teacher-forced pass.

        Args:
            forced: The pass, with its cache.
            rows: Rows of the batch to take.
            keep: Answer tokens to keep for each: at most `forced.agreed`, and 0 or less than that
                where greedy decoding gives the whole reference.

        Returns:
            The prefixes, with the token that greedy decoding picks next.
        """
        assert forced.cache is not None
        batch = forced.batch
        device = batch.input_ids.device
        chosen = torch.tensor(list(rows), device=device)
        kept = torch.tensor(list(keep), device=device)
        lengths = batch.prompt_lengths[chosen] + kept
        width = int(lengths.max())
        ends = batch.prompt_columns + kept
        source = (ends[:, None] - width + torch.arange(width, device=device)).clamp(min=0)

        def gather(states: torch.Tensor) -> torch.Tensor:
            return states[chosen[:, None], :, source].transpose(1, 2).contiguous()

        targets = batch.targets.tolist()
        first, later = forced.first_token.tolist(), forced.next_token.tolist()
        agreed = forced.agreed.tolist()
        answers = []
        for row, count in zip(rows, keep, strict=True):
            if count == agreed[row]:
                following = later[row]
            else:
                following = targets[row][count] if count else first[row]
            answers.append((*targets[row][:count], following))
        return cls(
            items=tuple(batch.rows[row] for row in rows),
            answers=tuple(answers),
            lengths=lengths,
            keys=tuple(gather(keys) for keys, _ in states_of(forced.cache)),
            values=tuple(gather(values) for _, values in states_of(forced.cache)),
        )

    @classmethod
    def joined(cls, parts: Sequence[Prefixes]) -> Prefixes:
        """Put several sets of rows together, flush right."""
        if len(parts) == 1:
            return parts[0]
        width = max(int(part.lengths.max()) for part in parts)

        def stack(which: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
            return tuple(
                torch.cat([_widen(states, width) for states in layer])
                for layer in zip(*which, strict=True)
            )

        return cls(
            items=tuple(item for part in parts for item in part.items),
            answers=tuple(answer for part in parts for answer in part.answers),
            lengths=torch.cat([part.lengths for part in parts]),
            keys=stack([part.keys for part in parts]),
            values=stack([part.values for part in parts]),
        )

    def part(self, rows: slice) -> Prefixes:
        """Take some of the rows."""
        return Prefixes(
            self.items[rows],
            self.answers[rows],
            self.lengths[rows],
            tuple(states[rows] for states in self.keys),
            tuple(states[rows] for states in self.values),
        )

    def __len__(self) -> int:
        return len(self.items)


def states_of(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer, each of shape (B, heads, columns, head size)."""
    return [(layer.keys, layer.values) for layer in cast(list[DynamicLayer], cache.layers)]  # type: ignore[misc]


def _widen(states: torch.Tensor, width: int) -> torch.Tensor:
    missing = width - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing else states


def decode_greedily(
    model: PreTrainedModel, prefixes: Prefixes, end_ids: Collection[int], max_new_tokens: int
) -> list[list[int]]:
    """Decode until every row has ended or is full.

    Args:
        model: Any causal language model of transformers.
        prefixes: Where each row stands.
        end_ids: Tokens that end an answer.
        max_new_tokens: Most answer tokens, those in the prefix and the end token included.

    Returns:
        Answer tokens of each row, without the end token.

    Raises:
        InvalidLogitsError: A logit is NaN or infinite.
    """
    answers = [list(answer) for answer in prefixes.answers]
    ends = set(end_ids)

    def is_open(row: int) -> bool:
        return answers[row][-1] not in ends and len(answers[row]) < max_new_tokens

    rows = [row for row in range(len(answers)) if is_open(row)]
    if rows:
        _decode(model, prefixes, answers, rows, is_open)
    return [answer[:-1] if answer[-1] in ends else answer for answer in answers]


def _decode(
    model: PreTrainedModel,
    prefixes: Prefixes,
    answers: list[list[int]],
    rows: list[int],
    is_open: Callable[[int], bool],
) -> None:
    """Append tokens to the answers of `rows` until none of them is open."""
    device = prefixes.lengths.device
    index = torch.tensor(rows, device=device)
    states = [(k[index], v[index]) for k, v in zip(prefixes.keys, prefixes.values, strict=True)]
    cache = DynamicCache(states)
    positions = prefixes.lengths[index]
    width = prefixes.keys[0].shape[2]
    mask = (torch.arange(width, device=device) >= width - positions[:, None]).long()
    while True:
        places = [place for place, row in enumerate(rows) if is_open(row)]
        if not places:
            return
        if len(places) <= (1 - DROP_SHARE) * len(rows):
            index = torch.tensor(places, device=device)
            cache.batch_select_indices(index)
            mask, positions = mask[index], positions[index]
            rows = [rows[place] for place in places]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = model(
            input_ids=torch.tensor([[answers[row][-1]] for row in rows], device=device),
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        check_finite(logits)
        for row, token in zip(rows, logits.argmax(dim=-1).tolist(), strict=True):
            if is_open(row):
                answers[row].append(token)
        positions = positions + 1

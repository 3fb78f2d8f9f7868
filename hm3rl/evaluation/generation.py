"""Batched greedy decoding that goes on from the states of a teacher-forced pass.

Rows of different length stand flush right in one cache, finished rows are dropped on the way, and
the loop ends with its last row.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

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
            keep: Answer tokens to keep for each, at most `forced.agreed`.

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
            if count == agreed[row] and later[row] >= 0:
                following = later[row]
            else:
                following = targets[row][count] if count else first[row]
            answers.append((*targets[row][:count], following))
        return cls(
            items=tuple(batch.rows[row] for row in rows),
            answers=tuple(answers),
            lengths=lengths,
            keys=tuple(gather(layer.keys) for layer in forced.cache.layers),
            values=tuple(gather(layer.values) for layer in forced.cache.layers),
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

    def open_rows(rows: Sequence[int]) -> list[int]:
        return [r for r in rows if answers[r][-1] not in ends and len(answers[r]) < max_new_tokens]

    living = open_rows(range(len(answers)))
    if living:
        _advance(model, prefixes, answers, living, open_rows)
    return [answer[:-1] if answer[-1] in ends else answer for answer in answers]


def _advance(
    model: PreTrainedModel,
    prefixes: Prefixes,
    answers: list[list[int]],
    living: list[int],
    open_rows: object,
) -> None:
    """Append to `answers` token by token."""
    device = prefixes.lengths.device
    index = torch.tensor(living, device=device)
    keys = [states[index] for states in prefixes.keys]
    values = [states[index] for states in prefixes.values]
    cache = DynamicCache(list(zip(keys, values, strict=True)))
    width = keys[0].shape[2]
    positions = prefixes.lengths[index]
    columns = torch.arange(width, device=device)
    mask = (columns >= width - positions[:, None]).long()
    assert callable(open_rows)
    while living:
        mask = torch.cat([mask, mask.new_ones(len(living), 1)], dim=1)
        logits = model(
            input_ids=torch.tensor([[answers[row][-1]] for row in living], device=device),
            attention_mask=mask,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        check_finite(logits)
        for row, token in zip(living, logits.argmax(dim=-1).tolist(), strict=True):
            answers[row].append(token)
        positions = positions + 1
        still = open_rows(living)
        if len(still) < len(living):
            kept = [place for place, row in enumerate(living) if row in set(still)]
            index = torch.tensor(kept, device=device)
            cache.batch_select_indices(index)
            mask, positions, living = mask[index], positions[index], still

"""Training text as padded arrays: a mixture of tasks and levels, sampled by share.

Only answers carry a loss (label -100 elsewhere): prompts are random, nothing can be learned there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from hm3rl.tasks.base import Item
from hm3rl.tasks.synthetic_text import Level, SyntheticTask

IGNORED = -100
"""Label of a position without a loss."""


class Batch(NamedTuple):
    """Token ids and next-token labels, both of shape (B, T), of one task."""

    ids: torch.Tensor
    labels: torch.Tensor


def encode(items: Sequence[Item], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Encode prompt, answer and end token, padded on the right.

    Args:
        items: Items of any length.
        tokenizer: The zoo's tokenizer.

    Returns:
        Ids of shape (N, T) and labels of shape (N, T), already shifted: the label at position t
        is the token that should follow it.
    """
    vocabulary = tokenizer.get_vocab()
    end, pad = vocabulary["</s>"], vocabulary["<pad>"]

    def look_up(text: str) -> list[int]:
        return [vocabulary[word] for word in text.split()]

    rows = [(look_up(item.prompt), look_up(item.reference)) for item in items]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = prompt + answer
        start = len(prompt) - 1
        labels[row, start : start + len(answer) + 1] = [*answer, end]
    return Batch(torch.from_numpy(ids), torch.from_numpy(labels))


class Mixture:
    """Draws batches in which every (task, level) has its share.

    Args:
        tasks: The tasks by name.
        shares: Share of every (task, level); they sum to one.
        tokenizer: The zoo's tokenizer.
        pool_size: Items generated per (task, level), sampled with replacement.
        seed: Seed of the items and of the sampling.
    """

    def __init__(
        self,
        tasks: Mapping[str, SyntheticTask],
        shares: Mapping[tuple[str, Level], float],
        tokenizer: PreTrainedTokenizerFast,
        pool_size: int,
        seed: int,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._shares = {part: share for part, share in shares.items() if share > 0}
        self._pools = {
            (name, level): encode(tasks[name].training_items(pool_size, level, seed), tokenizer)
            for name, level in self._shares
        }

    def draw(self, rows: int) -> list[Batch]:
        """Draw `rows` items, as one batch per task cut to the longest row it holds."""
        parts = list(self._shares)
        probabilities = np.array([self._shares[part] for part in parts])
        counts = self._rng.multinomial(rows, probabilities / probabilities.sum())
        by_task: dict[str, list[Batch]] = {}
        for part, count in zip(parts, counts, strict=True):
            if count:
                pool = self._pools[part]
                chosen = self._rng.integers(len(pool.ids), size=int(count))
                by_task.setdefault(part[0], []).append(Batch(pool.ids[chosen], pool.labels[chosen]))
        return [_join(batches) for batches in by_task.values()]

    @property
    def state(self) -> dict[str, object]:
        """State of the sampler, for resuming."""
        return dict(self._rng.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, object]) -> None:
        self._rng.bit_generator.state = state


def _join(batches: list[Batch]) -> Batch:
    """Stack batches of one task and cut the columns that hold only padding."""
    width = max(batch.ids.shape[1] for batch in batches)

    def stacked(tensors: list[torch.Tensor], fill: int) -> torch.Tensor:
        padded = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=fill) for t in tensors]
        return torch.cat(padded)

    ids = stacked([batch.ids for batch in batches], 0)
    labels = stacked([batch.labels for batch in batches], IGNORED)
    used = int((labels != IGNORED).any(dim=0).nonzero().max()) + 1
    return Batch(ids[:, :used], labels[:, :used])

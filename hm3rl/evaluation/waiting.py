"""Rows that wait to be decoded, with the states of the teacher-forced pass they go on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hm3rl.evaluation.scoring import ForcedBatch
from hm3rl.evaluation.stack import States


@dataclass(frozen=True)
class Waiting:
    """Rows of one candidate and batch that wait to be decoded.

    Keys and values are those of the teacher-forced pass, not copies: of all rows and columns of
    the batch, and shared with the other candidates that have the same prefix.

    Attributes:
        stack: Number of the candidate's stack.
        items: Number of each row's item in its request.
        answers: Answer tokens of each row so far; the last one has not been fed to the model.
        rows: Each row's place in the batch, shape (n,).
        lengths: Tokens of each row that count, shape (n,).
        ends: Column of the batch behind the last token that counts, shape (n,).
        states: Keys and values of the batch, by depth.
    """

    stack: int
    items: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    rows: torch.Tensor
    lengths: torch.Tensor
    ends: torch.Tensor
    states: tuple[States, ...]

    @classmethod
    def cut(
        cls, stack: int, forced: ForcedBatch, rows: Sequence[int], states: tuple[States, ...]
    ) -> Waiting:
        """Let rows wait where greedy decoding has left, or would leave, the reference."""
        batch, device = forced.batch, forced.batch.input_ids.device
        agreed, following = forced.agreed.tolist(), forced.next_token.tolist()
        targets = batch.targets.tolist()
        chosen = torch.tensor(list(rows), device=device)
        kept = forced.agreed[chosen]
        return cls(
            stack=stack,
            items=tuple(batch.rows[row] for row in rows),
            answers=tuple((*targets[row][: agreed[row]], following[row]) for row in rows),
            rows=chosen,
            lengths=batch.prompt_lengths[chosen] + kept,
            ends=batch.prompt_columns + kept,
            states=states,
        )

    def __len__(self) -> int:
        return len(self.items)

    def part(self, places: Sequence[int]) -> Waiting:
        """Take some of the rows."""
        rows = torch.tensor(list(places), device=self.rows.device)
        return Waiting(
            self.stack,
            tuple(self.items[place] for place in places),
            tuple(self.answers[place] for place in places),
            self.rows[rows],
            self.lengths[rows],
            self.ends[rows],
            self.states,
        )

    def write(self, depth: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copy the states of one depth, flush right, to tensors (n, heads, width, head size)."""
        rows, heads, width, size = keys.shape
        columns = self.ends[:, None] - width + torch.arange(width, device=self.ends.device)
        columns = columns.clamp(min=0)  # left of the prompt anything will do: it is masked
        for target, source in zip((keys, values), self.states[depth], strict=True):
            # Attention leaves the states of a token side by side, so whole tokens are copied.
            tokens = source.transpose(1, 2).reshape(-1, heads * size)
            places = (self.rows[:, None] * source.shape[2] + columns).flatten()
            chosen = tokens.index_select(0, places).view(rows, width, heads, size)
            target.copy_(chosen.transpose(1, 2))

"""From items to batches of token ids, fixed once: nothing here depends on the model or candidate.

A batch puts prompts flush right and answers flush left around one column, so that all answers are
predicted in the same columns:

    pad pad the  cat  = | le  chat eos
    pad one big  dog  = | un  gros chien eos

The last answer token is only ever a target, never an input. An item with choices has a row for each
of them, without an end token: a likelihood is all that is asked of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from transformers import PreTrainedTokenizerBase

from hm3rl.errors import InputError
from hm3rl.tasks.base import Item, Split, Task

FORWARD_TOKENS = 128
"""What starting a forward pass costs, in tokens' worth of computing (measured on the tiny zoo)."""

BATCH_TOKENS = {"cpu": 1536}
"""Most tokens in one forward pass by kind of device; on a CPU larger ones leave the cache."""
BATCH_TOKENS_OTHER = 65536


def batch_tokens(device: torch.device | str) -> int:
    """Most tokens in one forward pass on a device."""
    return BATCH_TOKENS.get(torch.device(device).type, BATCH_TOKENS_OTHER)


@dataclass(frozen=True)
class Encoded:
    """One item, or one choice of an item, as token ids.

    Attributes:
        prompt: Ids of the prompt.
        answer: Ids of the reference and the end token, or of the choice.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Lengths of prompt and answer."""
        return len(self.prompt), len(self.answer)


@dataclass(frozen=True)
class Batch:
    """Items that go through a model together; B rows, P prompt and R answer columns.

    Attributes:
        rows: Numbers of the rows in their request, B of them.
        input_ids: Shape (B, P + R - 1).
        attention_mask: Shape (B, P + R - 1), 0 left of the prompt.
        position_ids: Shape (B, P + R - 1), counted from the prompt's first token.
        targets: Answer ids, shape (B, R), -1 right of the answer.
        prompt_lengths: Shape (B,).
        answer_lengths: Shape (B,).
    """

    rows: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    prompt_lengths: torch.Tensor
    answer_lengths: torch.Tensor

    @property
    def prompt_columns(self) -> int:
        """P, the column of the first answer token."""
        return self.input_ids.shape[1] - self.targets.shape[1] + 1

    @cached_property
    def predicting(self) -> torch.Tensor:
        """Columns whose outputs predict the answer, shape (R,)."""
        first = self.prompt_columns - 1
        return torch.arange(first, first + self.targets.shape[1], device=self.input_ids.device)

    def halves(self) -> tuple[Batch, Batch]:
        """Split the rows in two; padding stays as it is.

        Raises:
            ValueError: There is only one row.
        """
        middle = len(self.rows) // 2
        if middle == 0:
            raise ValueError("a batch of one item cannot be split")
        everything = range(len(self.rows))
        return self.part(everything[:middle]), self.part(everything[middle:])

    def part(self, chosen: Sequence[int]) -> Batch:
        """Take some rows, given by their places in the batch; padding stays as it is."""
        rows = torch.tensor(list(chosen), dtype=torch.long, device=self.input_ids.device)
        return Batch(
            tuple(self.rows[place] for place in chosen),
            self.input_ids[rows],
            self.attention_mask[rows],
            self.position_ids[rows],
            self.targets[rows],
            self.prompt_lengths[rows],
            self.answer_lengths[rows],
        )


@dataclass(frozen=True)
class Request:
    """All items of one task and split, encoded and batched.

    Attributes:
        task: The task.
        split: The split.
        items: The items, in the task's order.
        encoded: The same as token ids: a row for each item, or for each choice of each item.
        batches: They cover every row once, or those of a part of the request.
    """

    task: Task
    split: Split
    items: tuple[Item, ...]
    encoded: tuple[Encoded, ...]
    batches: tuple[Batch, ...]

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        """First row of each item, and the number of all."""
        return tuple(accumulate((max(1, len(item.choices)) for item in self.items), initial=0))

    def rows(self, number: int) -> range:
        """The rows of an item: one, or one for each of its choices."""
        return range(self._starts[number], self._starts[number + 1])

    @classmethod
    def build(
        cls,
        task: Task,
        split: Split,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        device: torch.device | str = "cpu",
        max_positions: int | None = None,
    ) -> Request:
        """Encode and batch the items of a split.

        Args:
            task: The task.
            split: The split.
            tokenizer: The models' tokenizer.
            batch_size: Most items in a batch.
            device: Where the tensors go.
            max_positions: Longest sequence the models take, in tokens.

        Returns:
            The request.

        Raises:
            InputError: An item has no tokens, or is longer than allowed.
        """
        items = task.items(split)
        encoded: tuple[Encoded, ...] = ()
        for item in items:
            rows = encode_choices(item, tokenizer) if item.choices else (encode(item, tokenizer),)
            for row in rows:
                _check_lengths(task, item, row, max_positions)
            encoded += rows
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        groups = group([ids.shape for ids in encoded], batch_size, batch_tokens(device))
        batches = tuple(make_batch(encoded, rows, int(pad), device) for rows in groups)
        return cls(task, split, items, encoded, batches)

    def part(self, numbers: Collection[int]) -> Request:
        """Run only some of the items; each keeps its number and its padding.

        Args:
            numbers: Numbers of the items.

        Returns:
            A request of the same items whose batches hold the chosen ones only.
        """
        wanted = {row for number in numbers for row in self.rows(number)}
        parts = []
        for batch in self.batches:
            places = [place for place, number in enumerate(batch.rows) if number in wanted]
            if places:
                parts.append(batch.part(places) if len(places) < len(batch.rows) else batch)
        return replace(self, batches=tuple(parts))


def _check_lengths(task: Task, item: Item, ids: Encoded, max_positions: int | None) -> None:
    if not ids.prompt:
        raise InputError(
            f"task {task.name!r}: the prompt {item.prompt!r} has no tokens", "write a prompt"
        )
    if not ids.answer:
        raise InputError(
            f"task {task.name!r}: a choice of {item.prompt!r} has no tokens", "write choices"
        )
    if not item.choices and len(ids.answer) > task.max_new_tokens:
        raise InputError(
            f"task {task.name!r}: the reference {item.reference!r} has {len(ids.answer)} tokens "
            f"with its end, but max_new_tokens is {task.max_new_tokens}",
            f"set tasks.{task.name}.max_new_tokens={len(ids.answer)} or more",
        )
    answer = len(ids.answer) if item.choices else task.max_new_tokens
    if max_positions is not None and len(ids.prompt) + answer > max_positions:
        raise InputError(
            f"task {task.name!r}: a prompt of {len(ids.prompt)} tokens and an answer of up to "
            f"{answer} exceed the {max_positions} positions of the models",
            "shorten the prompt" + ("" if item.choices else " or max_new_tokens"),
        )


def encode(item: Item, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Turn an item into token ids.

    The prompt gets the special tokens the tokenizer puts in front (none behind, and no second
    begin token if the prompt spells one out, as chat templates do); the answer ends with the end
    token.

    Raises:
        InputError: The tokenizer has no end token.
    """
    end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
    if end is None:
        raise InputError("the tokenizer has no end token", "set its eos_token and save it again")
    prompt = list(tokenizer(item.prompt)["input_ids"])
    if len(prompt) > 1 and prompt[-1] == end and not item.prompt.endswith(str(tokenizer.eos_token)):
        prompt.pop()
    if begin is not None and prompt[:2] == [begin, begin]:
        prompt.pop(0)
    answer = list(tokenizer(item.reference, add_special_tokens=False)["input_ids"])
    return Encoded(tuple(prompt), (*answer, end))


def encode_choices(item: Item, tokenizer: PreTrainedTokenizerBase) -> tuple[Encoded, ...]:
    """Turn the choices of an item into token ids, each after the prompt and without an end.

    Raises:
        InputError: The tokenizer has no end token.
    """
    rows = [encode(replace(item, reference=choice), tokenizer) for choice in item.choices]
    return tuple(Encoded(row.prompt, row.answer[:-1]) for row in rows)


def group(
    shapes: Sequence[tuple[int, int]], batch_size: int, batch_tokens: int
) -> list[tuple[int, ...]]:
    """Divide items into batches so that padding and the number of passes cost least together.

    Exact for items sorted by prompt and answer length and batches of neighbours (dynamic
    programming). Depends on the shapes alone, so an item's padding is always the same.

    Args:
        shapes: Prompt and answer length of each item.
        batch_size: Most items in a batch.
        batch_tokens: Most tokens in a batch, padding included (a single item may exceed it).

    Returns:
        Item numbers of each batch.
    """
    order = sorted(range(len(shapes)), key=lambda number: (*shapes[number], number))
    cost = [0.0] + [float("inf")] * len(order)
    start = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        prompt = answer = 0
        for first in range(end - 1, max(end - batch_size, 0) - 1, -1):
            prompt = max(prompt, shapes[order[first]][0])
            answer = max(answer, shapes[order[first]][1])
            tokens = (end - first) * (prompt + answer - 1)
            if tokens > batch_tokens and first < end - 1:
                break
            if cost[first] + FORWARD_TOKENS + tokens < cost[end]:
                cost[end] = cost[first] + FORWARD_TOKENS + tokens
                start[end] = first
    groups: list[tuple[int, ...]] = []
    end = len(order)
    while end:
        groups.append(tuple(order[start[end] : end]))
        end = start[end]
    return groups[::-1]


def make_batch(
    encoded: Sequence[Encoded], rows: tuple[int, ...], pad: int, device: torch.device | str
) -> Batch:
    """Lay some items out as one batch; see the module's drawing."""
    chosen = [encoded[row] for row in rows]
    prompt = max(len(ids.prompt) for ids in chosen)
    answer = max(len(ids.answer) for ids in chosen)
    input_ids = torch.full((len(rows), prompt + answer - 1), pad, dtype=torch.long)
    mask = torch.ones_like(input_ids)
    targets = torch.full((len(rows), answer), -1, dtype=torch.long)
    last = torch.tensor([len(ids.prompt) + len(ids.answer) - 2 for ids in chosen])[:, None]
    for row, ids in enumerate(chosen):
        begin = prompt - len(ids.prompt)
        known = (*ids.prompt, *ids.answer[:-1])
        input_ids[row, begin : begin + len(known)] = torch.tensor(known)
        mask[row, :begin] = 0
        targets[row, : len(ids.answer)] = torch.tensor(ids.answer)
    return Batch(
        rows=rows,
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        # Padding on the right repeats the last position: learned positions have a last one.
        position_ids=torch.minimum((mask.cumsum(1) - 1).clamp(min=0), last).to(device),
        targets=targets.to(device),
        prompt_lengths=torch.tensor([len(ids.prompt) for ids in chosen], device=device),
        answer_lengths=torch.tensor([len(ids.answer) for ids in chosen], device=device),
    )

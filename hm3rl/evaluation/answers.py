"""From models and a request to what they answer, with as little computing as is exact.

One teacher-forced pass scores the likelihood of all references and finds the items that greedy
decoding answers with the reference. Only the others are decoded, and only if their text matters:
where anything but the reference scores 0, it does not once it cannot become the reference any more
(`spelling`). Candidates of one call share what they have in common (`sharing`, `generation`); items
whose leads are within the numerical error are decoded apart, in a shape of their own (`plain`). In
lower precision than float32 most answers have such a lead somewhere, so there all that is decoded
is decoded apart. So an answer depends on nothing but the model and the item, and a likelihood on
nothing but the model and the batch of items.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hm3rl.evaluation.causes import by_candidate
from hm3rl.evaluation.generation import decode_together
from hm3rl.evaluation.memory import in_memory
from hm3rl.evaluation.plain import decode_apart, rows_apart
from hm3rl.evaluation.requests import Batch, Request
from hm3rl.evaluation.scoring import ForcedBatch, InvalidLogitsError, compare
from hm3rl.evaluation.sharing import Arrived, Failed, Sharing, Walk
from hm3rl.evaluation.spelling import spelling_of
from hm3rl.evaluation.stack import Stack
from hm3rl.evaluation.waiting import Waiting

LOGIT_BYTES = 2**30
"""Most memory for the logits of a pass, in float32; comparing them takes a few times as much."""


@dataclass(frozen=True)
class Answers:
    """What a model answers to the items of a request.

    Attributes:
        tokens: Answer ids of each row without the end token; None where decoding was spared
            because the answer is known to differ from the reference. A row is an item, or a choice.
        nll: Mean negative log-likelihood per reference token, shape (rows,).
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


@torch.inference_mode()
def answer_together(
    stacks: Sequence[Stack],
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    all_texts: bool,
    decode: bool = True,
    sharing: Sharing | None = None,
) -> list[Answers | str]:
    """Let several models answer all items in the batches of a request.

    Args:
        stacks: The models, on one device, taken apart.
        request: The items.
        tokenizer: The models' tokenizer.
        all_texts: Whether the text of every answer is needed.
        decode: Whether to decode at all; without, only items that greedy decoding answers with the
            reference get tokens.
        sharing: What the call may hold and join; counts what it does.

    Returns:
        By model its answers, or the traceback of its failure, which is its own: it puts out NaN or
        infinite logits, or breaks. Of items in no batch, no tokens and a likelihood of 0.

    Raises:
        MachineError: Memory does not suffice for a single item.
        Exception: What no model caused (`causes`).
    """
    sharing = Sharing() if sharing is None else sharing
    return _Answering(stacks, request, tokenizer, all_texts, decode, sharing).run()


@dataclass
class _Part:
    """A batch and the numbers of the stacks that have not gone through it yet."""

    batch: Batch
    todo: list[int]

    def size(self) -> float:
        """Tokens of the batch, padding included."""
        return self.batch.input_ids.numel()

    def halves(self) -> tuple[_Part, _Part]:
        """Split the batch; see `Batch.halves`."""
        first, second = self.batch.halves()
        return _Part(first, list(self.todo)), _Part(second, list(self.todo))


@dataclass
class _Apart:
    """Items of one stack that are decoded in one batch of a fixed number of rows."""

    stack: int
    items: list[int]
    rows: int

    def halves(self) -> tuple[_Apart, _Apart]:
        """Split the items, and halve the rows.

        Raises:
            ValueError: It has one row.
        """
        if self.rows == 1:
            raise ValueError("one row cannot be split")
        rows = self.rows // 2
        first, second = self.items[:rows], self.items[rows:]
        return _Apart(self.stack, first, rows), _Apart(self.stack, second, rows)


class _Answering:
    """One call of `answer_together`."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        request: Request,
        tokenizer: PreTrainedTokenizerBase,
        all_texts: bool,
        decode: bool,
        sharing: Sharing,
    ) -> None:
        self.stacks, self.request, self.sharing = stacks, request, sharing
        self.ends = [end_tokens(stack.model, tokenizer) for stack in stacks]
        self.decode = decode
        self.spelling = spelling_of(tokenizer)
        self.spared = request.task.exact_only and not all_texts
        rows = len(request.encoded)
        self.tokens: list[list[list[int] | None]] = [[None] * rows for _ in stacks]
        self.nll = np.zeros((len(stacks), rows))
        self.decoded = [0] * len(stacks)
        self.failures: dict[int, str] = {}
        self._waiting: list[Waiting] = []
        self._apart: set[tuple[int, int]] = set()
        self._shared_bytes: dict[int, int] = {}
        self._own_bytes = 0.0

    def run(self) -> list[Answers | str]:
        """Answer everything."""
        for batch in self.request.batches:
            todo = [number for number in range(len(self.stacks)) if number not in self.failures]
            part = _Part(batch, todo)
            in_memory(self._pass, part, _Part.halves, _Part.size, self.sharing.too_long_a_pass)
        self._flush()
        for some in self._apart_batches():
            in_memory(self._answer_apart, some, _Apart.halves)
        return [
            self.failures.get(number)
            or Answers(self.tokens[number], self.nll[number], self.decoded[number])
            for number in range(len(self.stacks))
        ]

    def _pass(self, part: _Part) -> None:
        """Take a batch through the stacks, which are struck off when they have arrived."""
        together = any(rows_apart(stack.dtype) == 1 for stack in self.stacks)
        keep = together and self.decode and not (self.spared and self.spelling.one)
        walk = Walk(self.stacks, part.batch, keep, self.sharing)
        for found in walk.run(tuple(part.todo)):
            if isinstance(found, Failed):
                self.failures[found.stack] = found.error
            else:
                self._arrive(found, part.batch)
            part.todo.remove(found.stack)
            held = self._own_bytes + sum(self._shared_bytes.values())
            if held > self.sharing.activation_bytes:
                self._flush()

    def _arrive(self, found: Arrived, batch: Batch) -> None:
        """Take down what the pass of one stack says, and what remains to be decoded."""
        number = found.stack
        stack = self.stacks[number]
        try:
            forced = self._compared(stack, found.hidden, batch, self.ends[number])
        except Exception as error:
            if not by_candidate(error):
                raise
            self.failures[number] = traceback.format_exc()
            return
        self.nll[number, list(batch.rows)] = forced.nll.double().cpu().numpy()
        exact, waiting, apart = self._sort(forced, self.ends[number])
        for row in exact:
            item = batch.rows[row]
            self.tokens[number][item] = list(self.request.encoded[item].answer[:-1])
        self.decoded[number] += len(waiting) + len(apart)
        if found.states is None or rows_apart(stack.dtype) > 1:
            apart, waiting = [*apart, *waiting], []
        self._apart.update((number, batch.rows[row]) for row in apart)
        if waiting:
            self._wait(Waiting.cut(number, forced, waiting, found.states or ()), batch)

    def _compared(
        self, stack: Stack, hidden: torch.Tensor, batch: Batch, ends: Collection[int]
    ) -> ForcedBatch:
        """Compare with the references, so many rows at a time that their logits are not huge."""
        columns, words = batch.targets.shape[1], stack.model.config.vocab_size
        rows = max(1, LOGIT_BYTES // (4 * columns * words))
        parts = []
        for first in range(0, len(batch.rows), rows):
            part = batch
            if len(batch.rows) > rows:
                part = batch.part(range(first, min(first + rows, len(batch.rows))))
            states = hidden[first : first + rows, batch.predicting]
            parts.append(compare(stack.logits(states), part, ends, stack.dtype))
        return parts[0] if len(parts) == 1 else ForcedBatch.joined(batch, parts)

    def _sort(
        self, forced: ForcedBatch, ends: Collection[int]
    ) -> tuple[list[int], list[int], list[int]]:
        """Tell rows apart: answered with the reference, to be decoded, to be decoded apart."""
        exact_rows: list[int] = []
        waiting: list[int] = []
        apart: list[int] = []
        columns = (forced.exact, forced.safe, forced.agreed, forced.next_token)
        lists = (column.tolist() for column in columns)
        for row, (exact, safe, agreed, following) in enumerate(zip(*lists, strict=True)):
            if exact and (safe or not self.decode):
                exact_rows.append(row)
            elif not self.decode:
                continue
            elif not safe:
                apart.append(row)
            elif not self._spares(forced.batch.rows[row], agreed, following, ends):
                waiting.append(row)
        return exact_rows, waiting, apart

    def _spares(self, item: int, agreed: int, following: int, ends: Collection[int]) -> bool:
        """Whether an answer need not be decoded any further, once it has left the reference."""
        reference = self.request.encoded[item].answer
        return self.spared and self.spelling.differs(reference, agreed, following, ends)

    def _wait(self, rows: Waiting, batch: Batch) -> None:
        """Let rows wait, and keep account of the memory that takes."""
        self._waiting.append(rows)
        columns = batch.input_ids.shape[1]
        growth = 1 + self.request.task.max_new_tokens / columns
        for states in rows.states:
            size = states.keys.nbytes + states.values.nbytes
            self._shared_bytes[id(states)] = size  # other candidates hold the very same
            self._own_bytes += size * growth * len(rows) / len(batch.rows)

    def _flush(self) -> None:
        """Decode what waits."""
        rows = [some for some in self._waiting if some.stack not in self.failures]
        self._waiting.clear()
        if rows:
            in_memory(self._decode, rows, _halves, _decoded, self.sharing.too_much_decoding)
        self._shared_bytes.clear()
        self._own_bytes = 0.0

    def _decode(self, rows: list[Waiting]) -> None:
        """Decode rows of any stacks together."""
        limit = self.request.task.max_new_tokens
        try:
            decoded = decode_together(self.stacks, rows, self.ends, limit, self.sharing.work)
        except Exception as error:
            if not by_candidate(error):
                raise
            numbers = sorted({some.stack for some in rows})
            if len(numbers) == 1:
                self.failures[numbers[0]] = traceback.format_exc()
                return
            for number in numbers:  # whose fault it is shows when each goes alone
                self._decode([some for some in rows if some.stack == number])
            return
        for (number, item), ids in decoded.answers.items():
            self.tokens[number][item] = ids
        self._apart.update(decoded.unsure)
        for number in decoded.invalid:
            self.failures[number] = "".join(traceback.format_exception(InvalidLogitsError()))

    def _apart_batches(self) -> list[_Apart]:
        """Batches of the items that are decoded apart, those of similar length together."""
        encoded = self.request.encoded
        rest: dict[int, list[int]] = {}
        for number, item in sorted(self._apart, key=lambda row: (len(encoded[row[1]].answer), row)):
            rest.setdefault(number, []).append(item)
        found = []
        for number, items in sorted(rest.items()):
            rows = rows_apart(self.stacks[number].dtype)
            found += [
                _Apart(number, items[first : first + rows], rows)
                for first in range(0, len(items), rows)
            ]
        return found

    def _answer_apart(self, some: _Apart) -> None:
        """Decode some items of one stack with no other stack beside them."""
        if some.stack in self.failures or not some.items:
            return
        ends, encoded = self.ends[some.stack], self.request.encoded
        chosen = [encoded[item] for item in some.items]
        columns = max(len(ids.prompt) for ids in (encoded if some.rows > 1 else chosen))

        def settled(row: int, answer: Sequence[int]) -> bool:
            reference = chosen[row].answer
            at = len(answer) - 1
            # Looked at once, where it leaves the reference; if it might come back it is decoded.
            if tuple(answer[:at]) != reference[:at] or answer[at] in reference[at : at + 1]:
                return False
            return self._spares(some.items[row], at, answer[at], ends)

        try:
            answers = decode_apart(
                self.stacks[some.stack].model,
                chosen,
                ends,
                self.request.task.max_new_tokens,
                some.rows,
                columns,
                settled if self.spared else None,
            )
        except Exception as error:
            if not by_candidate(error):
                raise
            self.failures[some.stack] = traceback.format_exc()
            return
        for item, answer in zip(some.items, answers, strict=True):
            self.tokens[some.stack][item] = answer
        self.sharing.work.apart += len(some.items)


def _decoded(rows: list[Waiting]) -> float:
    """Tokens whose states decoding starts from."""
    return float(sum(int(some.lengths.sum()) for some in rows))


def _halves(rows: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """Split rows in two, between candidates if there are several."""
    if len(rows) > 1:
        return rows[: len(rows) // 2], rows[len(rows) // 2 :]
    everything, middle = range(len(rows[0])), len(rows[0]) // 2
    if middle == 0:
        raise ValueError("one row cannot be split")
    return [rows[0].part(everything[:middle])], [rows[0].part(everything[middle:])]

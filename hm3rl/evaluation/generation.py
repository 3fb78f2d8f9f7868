"""Greedy decoding of many candidates in one loop.

All rows of all candidates advance by one token a step. At each depth the rows of candidates that
have the same layer there run through it in one call: the weights are shared, so a loop for 64
candidates costs as many calls as there are different layers, not 64 times the depth. For each depth
and layer one cache holds the keys and values of exactly the rows that pass there.

Rows of different length stand flush right in the caches, finished rows are dropped on the way, and
the loop ends with its last row. A row whose best token leads by no more than the numerical error
leaves the loop: what such a row answers could depend on the rows beside it, so it is decoded apart
(`plain.decode_apart`), and no answer depends on what else is in the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from hm3rl.evaluation.plain import without_end
from hm3rl.evaluation.scoring import Lead
from hm3rl.evaluation.sharing import Work
from hm3rl.evaluation.stack import Call, Kind, Stack, listen_to_all
from hm3rl.evaluation.waiting import Waiting

DROP_SHARE = 0.2
"""Share of finished rows from which on they are dropped; dropping copies the caches."""


@dataclass
class Decoded:
    """What a decoding loop has come to.

    Attributes:
        answers: Answer tokens without the end token, by (number of the stack, of the item).
        unsure: Rows that have to be decoded apart.
        invalid: Numbers of the stacks that put out NaN or infinite logits.
    """

    answers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    unsure: list[tuple[int, int]] = field(default_factory=list)
    invalid: set[int] = field(default_factory=set)


@dataclass
class _Passage:
    """A layer at some depth with the rows that pass there.

    Attributes:
        stack: A stack that has the layer.
        users: Numbers of the stacks that have it, ascending; theirs are the rows.
        keys: Shape (n, heads, columns for the whole loop, head size).
        values: The same.
    """

    stack: Stack
    users: tuple[int, ...]
    keys: torch.Tensor
    values: torch.Tensor


class _Captured(NamedTuple):
    """How some stacks of equal `call_signature` call their layers, for all their rows."""

    users: tuple[int, ...]
    calls: dict[Kind, Call]


class _Columns(DynamicLayer):
    """Says how many columns there are and holds none."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def get_seq_length(self) -> int:
        """Columns before the next token."""
        return self.count


class _Append(Cache):
    """Writes one column into the buffers of a passage and returns all columns so far."""

    def __init__(self, passage: _Passage, column: int) -> None:
        super().__init__(layers=[])
        self.passage, self.column = passage, column

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before this one."""
        return self.column

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append."""
        at, passage = self.column, self.passage
        passage.keys[:, :, at : at + 1] = key_states
        passage.values[:, :, at : at + 1] = value_states
        return passage.keys[:, :, : at + 1], passage.values[:, :, : at + 1]


def decode_together(
    stacks: Sequence[Stack],
    waiting: Sequence[Waiting],
    end_ids: Sequence[Collection[int]],
    max_new_tokens: int,
    work: Work,
) -> Decoded:
    """Decode until every row has ended, is full, or has to be decoded apart.

    Args:
        stacks: All stacks.
        waiting: Where the rows stand.
        end_ids: Tokens that end an answer, by number of the stack.
        max_new_tokens: Most answer tokens, those so far and the end token included.
        work: Where the calls are counted.

    Returns:
        What came of each row.
    """
    decoded = Decoded()
    rest: list[Waiting] = []
    for some in sorted(waiting, key=lambda w: w.stack):
        ends = end_ids[some.stack]
        going: list[int] = []
        for row, (item, answer) in enumerate(zip(some.items, some.answers, strict=True)):
            if answer[-1] in ends or len(answer) >= max_new_tokens:
                decoded.answers[some.stack, item] = without_end(answer, ends)
            else:
                going.append(row)
        if going:
            rest.append(some.part(going))
    if rest:
        _Loop(stacks, rest, end_ids, max_new_tokens, work, decoded).run()
    return decoded


class _Loop:
    """The state of a decoding loop over R rows, those of one stack next to each other."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        waiting: Sequence[Waiting],
        end_ids: Sequence[Collection[int]],
        limit: int,
        work: Work,
        decoded: Decoded,
    ) -> None:
        self.stacks, self.end_ids, self.limit = stacks, end_ids, limit
        self.work, self.decoded = work, decoded
        device = waiting[0].lengths.device
        answers = [answer for some in waiting for answer in some.answers]
        self.counts = torch.tensor([len(answer) for answer in answers], device=device)
        padded = [[*answer, *[-1] * (limit - len(answer))] for answer in answers]
        self.tokens = torch.tensor(padded, device=device)
        self.items = torch.tensor([n for some in waiting for n in some.items], device=device)
        self.owners = torch.tensor([w.stack for w in waiting for _ in w.items], device=device)
        self.gone = torch.zeros(len(answers), dtype=torch.bool, device=device)
        self.positions = torch.cat([some.lengths for some in waiting])
        self.width = int(self.positions.max())
        columns = torch.arange(self.width, device=device)
        self.mask = (columns >= self.width - self.positions[:, None]).long()
        self.users = tuple(dict.fromkeys(some.stack for some in waiting))
        self._places: dict[tuple[int, ...], torch.Tensor] = {}
        self.passages = self._enter(waiting)

    def run(self) -> None:
        """Advance all rows until none is left."""
        while True:
            going = self._going()
            left = int(going.sum())
            if left <= (1 - DROP_SHARE) * len(going):
                self._retire(~going)
                if not left:
                    return
                self._select(going)
                going = going[going]
            self._step(going)

    def _enter(self, waiting: Sequence[Waiting]) -> list[list[_Passage]]:
        """Set up a cache for each depth and layer; it has room for the whole loop."""
        columns = self.width + self.limit - int(self.counts.min())
        passages: list[list[_Passage]] = []
        for depth in range(max(len(self.stacks[user].keys) for user in self.users)):
            groups: dict[Hashable, list[Waiting]] = {}
            for some in waiting:
                stack = self.stacks[some.stack]
                if depth < len(stack.keys):
                    groups.setdefault((stack.call_signature, stack.keys[depth]), []).append(some)
            passages.append([self._passage(depth, group, columns) for group in groups.values()])
        return passages

    def _passage(self, depth: int, group: Sequence[Waiting], columns: int) -> _Passage:
        _, heads, _, size = group[0].states[depth].keys.shape
        shape = (sum(map(len, group)), heads, columns, size)
        keys = group[0].states[depth].keys.new_empty(shape)
        values = torch.empty_like(keys)
        begin = 0
        for some in group:
            part = slice(begin, begin + len(some))
            some.write(depth, keys[part, :, : self.width], values[part, :, : self.width])
            begin = part.stop
        users = tuple(dict.fromkeys(some.stack for some in group))
        return _Passage(self.stacks[users[0]], users, keys, values)

    def _rows(self, users: tuple[int, ...]) -> torch.Tensor | None:
        """Places of the rows of some stacks; None stands for all rows."""
        if users == self.users:
            return None
        if users not in self._places:
            among = torch.tensor(users, device=self.owners.device)
            self._places[users] = torch.isin(self.owners, among).nonzero().flatten()
        return self._places[users]

    def _grouped(self, name: Callable[[Stack], Hashable]) -> list[tuple[int, ...]]:
        """Group the stacks by some name of theirs."""
        groups: dict[Hashable, list[int]] = {}
        for user in self.users:
            groups.setdefault(name(self.stacks[user]), []).append(user)
        return [tuple(group) for group in groups.values()]

    def _going(self) -> torch.Tensor:
        """Whether each row is to go on, shape (R,)."""
        last = self.tokens.gather(1, self.counts[:, None] - 1)[:, 0]
        ended = torch.zeros_like(self.gone)
        by_ends: dict[frozenset[int], list[int]] = {}
        for user in self.users:
            by_ends.setdefault(frozenset(self.end_ids[user]), []).append(user)
        for ends, users in by_ends.items():
            among = torch.isin(last, torch.tensor(sorted(ends), device=last.device))
            rows = self._rows(tuple(users))
            if rows is None:
                ended = among
            else:
                ended[rows] = among[rows]
        return ~(ended | self.gone) & (self.counts < self.limit)

    def _retire(self, rows: torch.Tensor) -> None:
        """Take down the answers of finished rows; `rows` says which, shape (R,)."""
        rows = rows & ~self.gone
        columns = (self.owners[rows], self.items[rows], self.tokens[rows], self.counts[rows])
        lists = (column.tolist() for column in columns)
        for owner, item, tokens, count in zip(*lists, strict=True):
            answer = without_end(tokens[:count], self.end_ids[owner])
            self.decoded.answers[owner, item] = answer

    def _select(self, rows: torch.Tensor) -> None:
        """Keep some rows; `rows` says which, shape (R,)."""
        for passages in self.passages:
            for passage in passages:
                places = self._rows(passage.users)
                kept = (rows if places is None else rows[places]).nonzero().flatten()
                passage.keys = passage.keys.index_select(0, kept)
                passage.values = passage.values.index_select(0, kept)
            passages[:] = [passage for passage in passages if len(passage.keys)]
        self.counts, self.tokens = self.counts[rows], self.tokens[rows]
        self.items, self.owners, self.gone = self.items[rows], self.owners[rows], self.gone[rows]
        self.positions, self.mask = self.positions[rows], self.mask[rows]
        left = set(self.owners.tolist())
        self.users = tuple(user for user in self.users if user in left)
        for passages in self.passages:
            for passage in passages:
                passage.users = tuple(user for user in passage.users if user in left)
        self._places.clear()

    def _step(self, going: torch.Tensor) -> None:
        """Feed the last token of every row, and append the next one to those that go on."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        hidden, captured = self._embed()
        calls: dict[tuple[tuple[int, ...], Kind], Call] = {}
        for depth, passages in enumerate(self.passages):
            for passage in passages:
                stack, users = passage.stack, passage.users
                name = (users, stack.kinds[depth])
                if name not in calls:
                    calls[name] = self._for_rows(users, captured[stack.call_signature], name[1])
                cache = _Append(passage, self.width)
                states = calls[name].run(stack.layers[depth], self._of(hidden, users), cache)
                hidden = self._put(hidden, users, states)
                self.work.decoding_calls += 1
        following, wide, finite = self._predict(hidden)
        for owner in set(self.owners[going & ~finite].tolist()):
            self.decoded.invalid.add(owner)
            self.gone |= self.owners == owner
        unsure = going & ~wide & ~self.gone
        self.decoded.unsure += zip(
            self.owners[unsure].tolist(), self.items[unsure].tolist(), strict=True
        )
        self.gone |= unsure
        places = going.nonzero().flatten()
        self.tokens[places, self.counts[places]] = following[places]
        self.counts = self.counts + going
        # A finished row that has not been dropped yet stays within the positions there are.
        self.positions = self.positions + going
        self.width += 1

    def _embed(self) -> tuple[torch.Tensor, dict[Hashable, _Captured]]:
        """Embed the last token of every row and hear how layers are called.

        Returns:
            Input of the first layers, shape (R, 1, width), and what was captured by
            `Stack.call_signature`.
        """
        tokens = self.tokens.gather(1, self.counts[:, None] - 1)
        positions = self.positions[:, None]
        cache = Cache(layers=[_Columns(self.width)])
        hidden = tokens.new_empty(0)
        captured: dict[Hashable, _Captured] = {}
        for users in self._grouped(lambda stack: stack.call_signature):
            embedded, calls = listen_to_all(
                [self.stacks[user] for user in users],
                cache,
                input_ids=self._of(tokens, users),
                position_ids=self._of(positions, users),
                attention_mask=self._of(self.mask, users),
            )
            captured[self.stacks[users[0]].call_signature] = _Captured(users, calls)
            if not hidden.numel():
                hidden = embedded.new_empty((len(tokens), *embedded.shape[1:]))
            hidden = self._put(hidden, users, embedded)
        firsts = {one.users[0] for one in captured.values()}  # these embedded all others' rows, too
        for users in self._grouped(lambda stack: (stack.call_signature, stack.stem)):
            if users[0] not in firsts:
                embedded, _ = self.stacks[users[0]].listen(
                    input_ids=self._of(tokens, users), position_ids=self._of(positions, users)
                )
                hidden = self._put(hidden, users, embedded)
        return hidden, captured

    def _for_rows(self, users: tuple[int, ...], captured: _Captured, kind: Kind) -> Call:
        """What a kind of layer is called with for the rows of some stacks."""
        if users == captured.users:
            return captured.calls[kind]
        rows, among = self._rows(users), self._rows(captured.users)
        assert rows is not None
        within = rows if among is None else torch.searchsorted(among, rows)
        count = len(self.tokens) if among is None else len(among)
        return captured.calls[kind].map(count, lambda values: values[within])

    def _predict(self, hidden: torch.Tensor) -> Lead:
        """The next token of every row, whether it leads clearly, whether logits are finite."""
        rows = len(self.tokens)
        lead = Lead(
            self.counts.new_zeros(rows), torch.zeros_like(self.gone), torch.zeros_like(self.gone)
        )
        for users in self._grouped(lambda stack: stack.head):
            logits = self.stacks[users[0]].logits(self._of(hidden, users))[:, -1]
            found = Lead.of(logits, hidden.dtype)
            lead = Lead(*(self._put(a, users, b) for a, b in zip(lead, found, strict=True)))
        return lead

    def _of(self, values: torch.Tensor, users: tuple[int, ...]) -> torch.Tensor:
        """The rows of some stacks."""
        rows = self._rows(users)
        return values if rows is None else values[rows]

    def _put(self, values: torch.Tensor, users: tuple[int, ...], new: torch.Tensor) -> torch.Tensor:
        """Replace the rows of some stacks, in place unless these are all."""
        rows = self._rows(users)
        if rows is None:
            return new
        values[rows] = new
        return values

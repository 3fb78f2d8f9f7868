"""Prefix sharing: candidates that begin alike are computed together up to where they part.

The candidates of a batch form a trie: stems at the roots, one layer an edge. Every node is computed
once for a batch of items. The walk is depth first, so that the states of one path are all that is
ever held:

        math --[math 0]--[math 1]--+--[code 2]   candidate 0
                                   +--[math 2]   candidate 1      6 layer forwards instead of 9
                        [code 1]---[math 2]      candidate 2

Two nodes with the same layer at the same depth (above: math 2) come from different states. They can
run through that layer in one call, which pays where a batch of items does not fill the device; the
walk then goes level by level, as far as memory allows (`Joining`).
"""

from __future__ import annotations

import traceback
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from hm3rl.config.schema import EvaluationSettings
from hm3rl.config.values import choices
from hm3rl.errors import InputError
from hm3rl.evaluation.causes import by_candidate
from hm3rl.evaluation.memory import TooMuch
from hm3rl.evaluation.requests import Batch, batch_tokens
from hm3rl.evaluation.stack import Call, Kept, Kind, Stack, States, listen_to_all
from hm3rl.evaluation.trie import Node, trie


@dataclass
class Work:
    """What computing has been done.

    Attributes:
        prefixes: Layer forwards of the teacher-forced pass: one for each prefix and batch of items.
        calls: Calls of layer modules that this took; fewer where prefixes were joined.
        decoding_calls: Calls of layer modules while decoding.
        apart: Items that were decoded apart (`plain`): a lead was too small, or float32 not used.
    """

    prefixes: int = 0
    calls: int = 0
    decoding_calls: int = 0
    apart: int = 0


JOINS = choices(EvaluationSettings, "join")
"""When different prefixes may go through a layer in one call."""


@dataclass
class Sharing:
    """How candidates are computed together; one object serves a whole run.

    The last digits of a matrix product may depend on the size of the matrices, and so would the
    last digits of a likelihood on the other candidates of a batch. `join="exact"` therefore tries
    each new shape both ways and joins only where not a digit changes.

    Attributes:
        activation_bytes: Keys and values that wait for decoding or are being decoded, and hidden
            states of prefixes that are joined. The states of one path, and the rows of one
            candidate and batch of items, come on top.
        join: "never", "exact", or "always": quicker on a GPU, whose kernels depend on sizes;
            scores are the same, likelihoods up to the numerical error.
        work: What has been computed so far.
        too_long_a_pass: Tokens of a batch that did not fit into memory; such are halved at once.
        too_much_decoding: The same of tokens that decoding started from.
    """

    activation_bytes: int = 2**28
    join: str = "exact"
    work: Work = field(default_factory=Work)
    too_long_a_pass: TooMuch = field(default_factory=TooMuch)
    too_much_decoding: TooMuch = field(default_factory=TooMuch)
    _same: dict[Hashable, bool] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        if self.activation_bytes < 1:
            raise InputError("no memory is granted for activations", "grant at least 1 MB")
        if self.join not in JOINS:
            raise InputError(f"evaluation.join={self.join}", f"one of {', '.join(JOINS)}")


@dataclass(frozen=True)
class Arrived:
    """A stack whose last layer has run.

    Attributes:
        stack: Its number.
        hidden: Output of the last layer, shape (B, columns, width).
        states: Keys and values of each layer, shared by all stacks with that prefix; None if they
            were not kept.
    """

    stack: int
    hidden: torch.Tensor
    states: tuple[States, ...] | None


@dataclass(frozen=True)
class Failed:
    """A stack that could not be computed.

    Attributes:
        stack: Its number.
        error: The traceback.
    """

    stack: int
    error: str


@dataclass
class _Place:
    """A node with the states that came out of its last layer."""

    node: Node
    hidden: torch.Tensor
    states: tuple[States, ...]


_Step = tuple[_Place, Node]
"""From a place to one of the longer prefixes."""


class Walk:
    """Runs one batch of items through the trie of some stacks.

    Args:
        stacks: All stacks.
        batch: The items.
        keep: Whether keys and values are kept, for decoding.
        sharing: What may be held and joined; counts the work.
    """

    def __init__(self, stacks: Sequence[Stack], batch: Batch, keep: bool, sharing: Sharing) -> None:
        self.stacks = stacks
        self.batch = batch
        self.keep = keep
        self.sharing = sharing
        # A power of two, so that few shapes occur.
        room = batch_tokens(batch.input_ids.device) // batch.input_ids.numel()
        self.most = 1 if sharing.join == "never" else 1 << max(0, room.bit_length() - 1)
        self._heard: dict[Hashable, dict[Kind, Call]] = {}
        self._repeated: dict[tuple[Hashable, Kind, int], Call] = {}

    def run(self, numbers: Iterable[int]) -> Iterator[Arrived | Failed]:
        """Run some of the stacks.

        Args:
            numbers: Which.

        Yields:
            Each stack once, in the order of the trie.

        Raises:
            RuntimeError: Memory ran out. What has been yielded holds.
        """
        places: list[_Place] = []
        for root in trie(self.stacks, numbers).values():
            try:
                places.append(_Place(root, self._listen(root), ()))
            except Exception as error:
                if not by_candidate(error):
                    raise
                among = list(root.numbers())
                if len(among) == 1:
                    yield Failed(among[0], traceback.format_exc())
                for number in among if len(among) > 1 else ():
                    yield from self.run([number])  # whose fault it is shows when each goes alone
            if self.most == 1:
                yield from self._descend(places)
        yield from self._descend(places)

    def _listen(self, root: Node) -> torch.Tensor:
        """Embed the items and take down how this stem calls its layers."""
        stacks = [self.stacks[number] for number in root.numbers()]
        hidden, calls = listen_to_all(
            stacks,
            Kept() if self.keep else None,
            input_ids=self.batch.input_ids,
            attention_mask=self.batch.attention_mask,
            position_ids=self.batch.position_ids,
        )
        self._heard[stacks[0].stem] = calls
        return hidden

    def _descend(self, places: list[_Place]) -> Iterator[Arrived | Failed]:
        for place in places:
            for number in place.node.ends:
                yield Arrived(number, place.hidden, place.states if self.keep else None)
        steps = [(place, child) for place in places for child in place.node.children.values()]
        places.clear()  # of the places, only what the steps hold is still needed
        while steps:
            below, failed = self._take(steps[: self._fitting(steps)])
            del steps[: len(below) + len(failed)]
            for node, error in failed:
                yield from (Failed(number, error) for number in node.numbers())
            yield from self._descend(below)

    def _fitting(self, steps: Sequence[_Step]) -> int:
        """How many of the next steps are taken before going deeper."""
        if self.most == 1:
            return 1
        # Every level may hold as many, hence the division by the depth.
        depth = max(len(stack.keys) for stack in self.stacks)
        return max(1, self.sharing.activation_bytes // (steps[0][0].hidden.nbytes * depth))

    def _take(self, steps: Sequence[_Step]) -> tuple[list[_Place], list[tuple[Node, str]]]:
        """Take some steps, those through the same layer and called alike together."""
        groups: dict[Hashable, list[_Step]] = {}
        for place, child in steps:
            stack = self.stacks[child.stack]
            name = (stack.keys[child.depth - 1], stack.call_signature)
            groups.setdefault(name, []).append((place, child))
        places: list[_Place] = []
        failed: list[tuple[Node, str]] = []
        for group in groups.values():
            while group:
                part = group[: min(self.most, 1 << (len(group).bit_length() - 1))]
                del group[: len(part)]
                try:
                    places += self._joined(part) if len(part) > 1 else [self._single(*part[0])]
                except Exception as error:
                    if not by_candidate(error):
                        raise
                    if len(part) == 1:
                        failed.append((part[0][1], traceback.format_exc()))
                    for step in part if len(part) > 1 else ():
                        # Whose fault it is shows when each goes alone.
                        below, fallen = self._take([step])
                        places += below
                        failed += fallen
        return places, failed

    def _joined(self, steps: Sequence[_Step]) -> list[_Place]:
        """Take several steps through one layer in one call, if they come out as they do alone."""
        if self.sharing.join == "always":
            return self._through(steps)
        node, columns = steps[0][1], self.batch.input_ids.shape[1]
        stack = self.stacks[node.stack]
        layer = stack.layers[node.depth - 1]
        make = (type(layer), *(weight.shape for weight in layer.parameters()))
        padded = not bool(self.batch.attention_mask.all())
        name = (
            *(stack.call_signature, stack.kinds[node.depth - 1], make),
            *(len(steps), len(self.batch.rows), columns, padded, steps[0][0].hidden.dtype),
        )
        if name not in self.sharing._same:
            alone = [self._single(*step) for step in steps]
            together = self._through(steps)
            self.sharing.work.prefixes -= len(steps)  # these were no new ones
            self.sharing._same[name] = all(map(_equal, alone, together))
            return alone
        if self.sharing._same[name]:
            return self._through(steps)
        return [self._single(*step) for step in steps]

    def _single(self, place: _Place, child: Node) -> _Place:
        """Take one step."""
        (there,) = self._through([(place, child)])
        return there

    def _through(self, steps: Sequence[_Step]) -> list[_Place]:
        """Run the states of some places through the layer that all of them take next."""
        node = steps[0][1]
        stack = self.stacks[node.stack]
        kept = Kept() if self.keep else None
        rows = len(self.batch.rows)
        hidden = torch.cat([p.hidden for p, _ in steps]) if len(steps) > 1 else steps[0][0].hidden
        call = self._call(stack.stem, stack.kinds[node.depth - 1], len(steps))
        hidden = call.run(stack.layers[node.depth - 1], hidden, kept)
        self.sharing.work.prefixes += len(steps)
        self.sharing.work.calls += 1
        places = []
        for number, (place, child) in enumerate(steps):
            part = slice(number * rows, (number + 1) * rows)
            states = place.states
            if kept is not None and kept.states is not None:
                states = (*states, States(kept.states.keys[part], kept.states.values[part]))
            places.append(_Place(child, hidden[part], states))
        return places

    def _call(self, stem: Hashable, kind: Kind, times: int) -> Call:
        """The call of a kind of layer for the batch's items, several times over."""
        if times == 1:
            return self._heard[stem][kind]
        if (stem, kind, times) not in self._repeated:
            single = self._heard[stem][kind]
            self._repeated[stem, kind, times] = single.map(
                len(self.batch.rows), lambda rows: torch.cat([rows] * times)
            )
        return self._repeated[stem, kind, times]


def _equal(one: _Place, other: _Place) -> bool:
    """Whether two places agree in every bit of what their last layer put out."""
    return torch.equal(one.hidden, other.hidden) and all(
        map(torch.equal, *(place.states[-1] for place in (one, other))) if one.states else ()
    )

"""Work in halves where memory demands it, and what failed once is not tried again."""

from __future__ import annotations

import pytest
import torch

from hm3rl.errors import HM3Error
from hm3rl.evaluation import answers as module
from hm3rl.evaluation.answers import Answers, answer_together
from hm3rl.evaluation.memory import TooMuch, in_memory
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.sharing import Sharing, Walk
from hm3rl.evaluation.stack import Stack
from hm3rl.paths import Candidate
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from tests.evaluation.conftest import WordTask


class Machine:
    """Holds so many rows; notes what was tried and what was done."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []
        self.done: list[int] = []

    def work(self, rows: list[int]) -> None:
        self.tried.append(len(rows))
        if len(rows) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        self.done += rows


def halves(rows: list[int]) -> tuple[list[int], list[int]]:
    if len(rows) == 1:
        raise ValueError("one row cannot be split")
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def test_what_was_too_much_is_divided_at_once_the_next_time() -> None:
    machine, too_much = Machine(3), TooMuch()
    for _ in range(2):
        in_memory(machine.work, list(range(8)), halves, len, too_much)
    assert machine.done == 2 * list(range(8))
    assert machine.tried == [8, 4, 2, 2, 2, 2, *([2] * 4)]
    assert too_much.size == 4
    in_memory(machine.work, [1, 2, 3], halves, len, too_much)
    assert machine.tried[-1] == 3  # fits as far as is known


def test_a_single_row_is_tried_whatever_failed_before() -> None:
    machine, too_much = Machine(0), TooMuch()
    with pytest.raises(HM3Error, match="a single item"):
        in_memory(machine.work, [1, 2], halves, len, too_much)
    assert too_much.size == 1
    machine.room = 1
    in_memory(machine.work, [1, 2], halves, len, too_much)
    assert machine.done == [1, 2]


def test_batches_that_did_not_fit_are_not_tried_again(
    members: MemberSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers stay what they are."""
    stack = Stack.of_candidate(Candidate.whole("a", 3), assemble(Candidate.whole("a", 3), members))
    tokenizer = members.pool.tokenizer
    request = Request.build(WordTask("one"), "search", tokenizer, 256)
    tokens = max(batch.input_ids.numel() for batch in request.batches)
    (wanted,) = answer_together([stack], request, tokenizer, True)
    failures: list[int] = []

    class Small(Walk):
        def run(self, numbers):  # type: ignore[no-untyped-def]
            if self.batch.input_ids.numel() > 0.6 * tokens:
                failures.append(self.batch.input_ids.numel())
                raise torch.OutOfMemoryError("out of memory")
            return super().run(numbers)

    monkeypatch.setattr(module, "Walk", Small)
    sharing = Sharing()
    for _ in range(2):
        (found,) = answer_together([stack], request, tokenizer, True, sharing=sharing)
        assert isinstance(found, Answers) and isinstance(wanted, Answers)
        assert found.tokens == wanted.tokens
        assert found.nll == pytest.approx(wanted.nll, rel=1e-5)
    assert len(failures) == len(set(failures)) >= 1
    assert sharing.too_long_a_pass.size == min(failures)

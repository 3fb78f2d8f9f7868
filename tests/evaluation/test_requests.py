"""Items become fixed batches of token ids."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from hm3rl.errors import InputError
from hm3rl.evaluation.requests import (
    FORWARD_TOKENS,
    Encoded,
    Request,
    encode,
    group,
    make_batch,
)
from hm3rl.models.pool import ModelPool
from hm3rl.tasks.base import Item
from tests.evaluation.conftest import WordTask

shapes = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=40)


@pytest.fixture
def tokenizer(tiny_pool: ModelPool) -> PreTrainedTokenizerBase:
    return tiny_pool.tokenizer


@given(shapes, st.integers(1, 9), st.integers(20, 200))
@settings(max_examples=60, deadline=None)
def test_groups_cover_every_item_once_and_keep_the_limits(
    shapes: list[tuple[int, int]], batch_size: int, batch_tokens: int
) -> None:
    groups = group(shapes, batch_size, batch_tokens)
    assert sorted(n for g in groups for n in g) == list(range(len(shapes)))
    for g in groups:
        assert len(g) <= batch_size
        assert len(g) == 1 or _tokens(shapes, g) <= batch_tokens


def _tokens(shapes: list[tuple[int, int]], g: tuple[int, ...]) -> int:
    return len(g) * (max(shapes[n][0] for n in g) + max(shapes[n][1] for n in g) - 1)


def test_groups_cost_no_more_than_any_other_division_into_neighbours() -> None:
    shapes = [(3, 2)] * 40 + [(30, 2)] * 20 + [(31, 9)] * 3 + [(4, 2)] * 2
    order = sorted(range(len(shapes)), key=lambda n: (*shapes[n], n))
    chosen = sum(FORWARD_TOKENS + _tokens(shapes, g) for g in group(shapes, 100, 10**6))
    for first in range(len(order)):
        for second in range(first, len(order)):
            cuts = sorted({0, first, second, len(order)})
            parts = [tuple(order[a:b]) for a, b in pairwise(cuts)]
            assert chosen <= sum(FORWARD_TOKENS + _tokens(shapes, g) for g in parts)


def test_a_batch_aligns_answers_in_one_column() -> None:
    batch = make_batch([Encoded((5, 6, 7), (8, 2)), Encoded((9,), (10, 11, 2))], (0, 1), 0, "cpu")
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 0], [0, 0, 9, 10, 11]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]
    assert batch.targets.tolist() == [[8, 2, -1], [10, 11, 2]]
    assert batch.predicting.tolist() == [2, 3, 4]
    assert batch.prompt_columns == 3


def test_halves_keep_their_padding() -> None:
    batch = make_batch([Encoded((5,), (8, 2)), Encoded((9, 9, 9), (2,))], (0, 1), 0, "cpu")
    first, second = batch.halves()
    assert (first.rows, second.rows) == ((0,), (1,))
    assert torch.equal(torch.cat([first.input_ids, second.input_ids]), batch.input_ids)
    assert torch.equal(first.predicting, batch.predicting)
    with pytest.raises(ValueError, match="one item"):
        first.halves()


def test_encoding_ends_the_answer_and_never_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode(Item("t", "w0 w1", "w2"), tokenizer)
    vocabulary = tokenizer.get_vocab()
    assert ids.prompt == (vocabulary["w0"], vocabulary["w1"])
    assert ids.answer == (vocabulary["w2"], tokenizer.eos_token_id)


class Wrapping:
    """A tokenizer that puts begin and end tokens around every text, as some do."""

    bos_token_id, eos_token_id, eos_token = 1, 2, "</s>"

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [1 if word == "<s>" else 10 + len(word) for word in text.split()]
        return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}


def test_special_tokens_around_the_prompt_are_mended() -> None:
    plain = encode(Item("t", "a bb", "ccc"), Wrapping())  # type: ignore[arg-type]
    chat = encode(Item("t", "<s> a bb", "ccc"), Wrapping())  # type: ignore[arg-type]
    assert plain.prompt == chat.prompt == (1, 11, 12)
    assert plain.answer == (13, 2)


def test_items_that_do_not_fit_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    task = WordTask("one")
    task.max_new_tokens = 2
    with pytest.raises(InputError, match="max_new_tokens is 2") as caught:
        Request.build(task, "search", tokenizer, 8)
    assert "tasks.one.max_new_tokens=" in caught.value.remedy
    with pytest.raises(InputError, match="exceed the 8 positions"):
        Request.build(WordTask("one"), "search", tokenizer, 8, max_positions=8)


def test_a_part_keeps_numbers_and_padding(tiny_pool: ModelPool) -> None:
    request = Request.build(WordTask("one"), "search", tiny_pool.tokenizer, batch_size=5)
    part = request.part((0, 3, 7, 8))
    assert sorted(number for batch in part.batches for number in batch.rows) == [0, 3, 7, 8]
    assert part.items == request.items
    rows = {
        number: (batch.input_ids[place].tolist(), batch.targets[place].tolist())
        for batch in request.batches
        for place, number in enumerate(batch.rows)
    }
    for batch in part.batches:
        for place, number in enumerate(batch.rows):
            ids, targets = rows[number]
            assert (batch.input_ids[place].tolist(), batch.targets[place].tolist()) == (
                ids,
                targets,
            )

"""Decoding in a fixed shape: what plain generation says, whoever else is in the batch."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import PreTrainedModel

from hm3rl.evaluation.plain import decode_apart, rows_apart
from hm3rl.evaluation.requests import Encoded, Request
from hm3rl.evaluation.scoring import InvalidLogitsError
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.code import CodeTask

LIMIT = 24


@pytest.fixture(scope="module")
def model(zoo_members: MemberSet) -> PreTrainedModel:
    """A merged path of the zoo, whose answers have many lengths."""
    return assemble(Candidate(LayerPath.parse("code | base[0:4] + code[4:8]")), zoo_members)


@pytest.fixture(scope="module")
def items(zoo_members: MemberSet) -> tuple[Encoded, ...]:
    """Twelve items with prompts of different length."""
    encoded = Request.build(CodeTask(None, 12, 2), "search", zoo_members.pool.tokenizer, 8).encoded
    assert len({len(ids.prompt) for ids in encoded}) > 1
    return encoded


def generated(model: PreTrainedModel, ids: Encoded, end: int) -> list[int]:
    """What transformers generates from a prompt."""
    prompt = torch.tensor([ids.prompt])
    tokens = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LIMIT,
        eos_token_id=end, pad_token_id=end,
    )[0, prompt.shape[1] :].tolist()  # fmt: skip
    return tokens[: tokens.index(end)] if end in tokens else tokens


def test_it_says_what_plain_generation_says(
    model: PreTrainedModel, items: tuple[Encoded, ...], zoo_members: MemberSet
) -> None:
    end = zoo_members.pool.tokenizer.eos_token_id
    columns = max(len(ids.prompt) for ids in items)
    together = decode_apart(model, items, {end}, LIMIT, 16, columns)
    singly = [decode_apart(model, [i], {end}, LIMIT, 1, len(i.prompt))[0] for i in items]
    assert together == singly == [generated(model, ids, end) for ids in items]
    assert len({len(answer) for answer in singly if answer is not None}) > 1


def test_in_bfloat16_neighbours_and_places_change_no_bit(
    model: PreTrainedModel, items: tuple[Encoded, ...], zoo_members: MemberSet
) -> None:
    low = deepcopy(model).to(torch.bfloat16)
    rows, columns = rows_apart(low.dtype), max(len(ids.prompt) for ids in items)
    assert rows > 1 == rows_apart(torch.float32)
    seen: list[torch.Tensor] = []
    low.lm_head.register_forward_hook(lambda *call: seen.append(call[-1][:, -1]))

    def logits(chosen: tuple[Encoded, ...]) -> torch.Tensor:
        seen.clear()
        decode_apart(low, chosen, (), 6, rows, columns)
        return torch.stack(seen, 1)[: len(chosen)]  # (items, steps, vocabulary)

    whole = logits(items)
    assert whole.shape[1] == 6
    assert torch.equal(logits(items[::-1]), whole.flip(0))
    assert torch.equal(logits(items[3:5]), whole[3:5])


def test_a_settled_row_is_given_up_and_the_others_go_on(
    model: PreTrainedModel, items: tuple[Encoded, ...], zoo_members: MemberSet
) -> None:
    end = zoo_members.pool.tokenizer.eos_token_id
    columns = max(len(ids.prompt) for ids in items)
    plain = decode_apart(model, items, {end}, LIMIT, 12, columns)
    asked: dict[int, int] = {}

    def settled(row: int, answer: object) -> bool:
        asked[row] = asked.get(row, 0) + 1
        return row % 2 == 0 and asked[row] == 2

    found = decode_apart(model, items, {end}, LIMIT, 12, columns, settled)
    assert found == [None if row % 2 == 0 else answer for row, answer in enumerate(plain)]
    assert all(asked[row] == 2 for row in range(0, 12, 2))


def test_nan_is_an_error(model: PreTrainedModel, items: tuple[Encoded, ...]) -> None:
    broken = deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InvalidLogitsError):
        decode_apart(broken, items[:1], (), LIMIT, 1, len(items[0].prompt))

"""A model taken apart computes what it computes in one piece, in every family."""

from __future__ import annotations

import pytest
import torch

from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.stack import Kept, Stack, call_signature, listen_to_all
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from tests.evaluation.conftest import WordTask

PATH = "b | a[0:2] + b[3] + a[1] + b[2]"


def stack_of(text: str, members: MemberSet) -> Stack:
    candidate = Candidate(LayerPath.parse(text))
    return Stack.of_candidate(candidate, assemble(candidate, members))


@torch.inference_mode()
def test_layers_run_one_by_one_as_in_one_piece(
    family_pool: ModelPool, tiny_pool: ModelPool
) -> None:
    """Padded rows, prompts beyond the window of 6; the states are those a cache would hold."""
    from transformers import DynamicCache

    stack = stack_of(PATH, MemberSet(family_pool))
    request = Request.build(WordTask("one", count=20), "search", tiny_pool.tokenizer, 20)
    (batch,) = request.batches
    assert batch.input_ids.shape[1] > 6 and not bool(batch.attention_mask.all())
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }
    cache = DynamicCache()
    whole = stack.model(**inputs, past_key_values=cache, use_cache=True).logits
    hidden, calls = stack.listen(Kept(), **inputs)
    for depth, layer in enumerate(stack.layers):
        kept = Kept()
        hidden = calls[stack.kinds[depth]].run(layer, hidden, kept)
        assert kept.states is not None
        assert torch.equal(kept.states.keys, cache.layers[depth].keys)
        assert torch.equal(kept.states.values, cache.layers[depth].values)
    assert torch.equal(stack.logits(hidden), whole)
    without, _ = stack.listen(**inputs)
    assert torch.equal(without, stack.listen(Kept(), **inputs)[0])


def test_the_model_is_not_changed(tiny_pool: ModelPool) -> None:
    members = MemberSet(tiny_pool)
    stack = stack_of("b | a[0] + c[1:3]", members)
    tokens = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        before = stack.model(tokens).logits
        hidden, _ = stack.listen(input_ids=tokens)
        stack.logits(hidden)
        assert torch.equal(stack.model(tokens).logits, before)
    assert [type(layer).__name__ for layer in stack.layers] == ["LlamaDecoderLayer"] * 3


def test_names_say_what_is_shared(tiny_pool: ModelPool) -> None:
    members = MemberSet(tiny_pool)
    one, other = stack_of("a | a[0:3]", members), stack_of("a | a[0:2] + b[2]", members)
    assert one.stem == other.stem and one.keys[:2] == other.keys[:2]
    assert one.keys[2] != other.keys[2]
    assert one.stem != stack_of("b | a[0:3]", members).stem
    assert one.call_signature == stack_of("b | a[0:3]", members).call_signature
    alone = Stack.of_model(members.model("a"))
    assert alone.stem != Stack.of_model(members.model("a")).stem
    borrowed = Candidate.of(one.model and LayerPath.parse("a | a[0:3]"), head="b")
    headed = Stack.of_candidate(borrowed, assemble(borrowed, members))
    assert headed.stem == one.stem and headed.head != one.head


def test_decoders_that_call_their_layers_differently_are_told_apart(tiny_config) -> None:
    assert call_signature(tiny_config()) == call_signature(tiny_config(num_hidden_layers=5))
    other = tiny_config(eos_token_id=[2, 9], initializer_range=0.1, architectures=["Other"])
    assert call_signature(tiny_config()) == call_signature(other)
    assert call_signature(tiny_config()) != call_signature(tiny_config(max_position_embeddings=64))
    theta = {"rope_theta": 5e5, "rope_type": "default"}
    assert call_signature(tiny_config()) != call_signature(tiny_config(rope_parameters=theta))


@pytest.mark.parametrize("family_pool", ["gemma3", "qwen2"], indirect=True)
def test_every_kind_of_layer_is_heard(family_pool: ModelPool) -> None:
    """One stack has only layers of full attention, the other only sliding ones."""
    members = MemberSet(family_pool)
    full, sliding = stack_of("a | a[0] + a[2]", members), stack_of("a | a[1] + a[3]", members)
    assert set(full.kinds).isdisjoint(sliding.kinds)
    assert full.stem == sliding.stem and full.call_signature == sliding.call_signature
    _, calls = listen_to_all([full, sliding], input_ids=torch.ones(1, 9, dtype=torch.long))
    assert calls.keys() == {*full.kinds, *sliding.kinds}

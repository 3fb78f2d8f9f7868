"""Candidates computed together come out as each does alone, with every prefix computed once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from hm3rl.errors import InputError
from hm3rl.evaluation import scoring, sharing
from hm3rl.evaluation.answers import Answers, answer_together
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.sharing import Arrived, Sharing, Walk
from hm3rl.evaluation.stack import Stack, States
from hm3rl.evaluation.trie import Node, distinct_prefixes
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from tests.evaluation.conftest import WordTask, blend

BATCH = (
    "a | a[0:3]",
    "a | a[0:2] + b[2]",
    "a | a[0] + c[1] + b[2]",
    "b | a[0:3]",
    "b | a[0] + a[0] + a[0:2]",
    "a | a[0:2]",
    "b | b[1] + a[2] + c[0]",
    "a | c[2] + c[1] + c[0]",
)
"""Common beginnings, meetings at the same layer, two stems, three lengths."""


def stacks_of(members: MemberSet, texts: Sequence[str] = BATCH) -> list[Stack]:
    candidates = [Candidate.of(LayerPath.parse(text), members.recipes) for text in texts]
    return [Stack.of_candidate(c, assemble(c, members)) for c in candidates]


def answers_of(
    stacks: Sequence[Stack], request: Request, pool: ModelPool, how: Sharing | None = None
) -> list[Answers]:
    found = answer_together(stacks, request, pool.tokenizer, all_texts=True, sharing=how)
    assert all(isinstance(one, Answers) for one in found), found
    return [one for one in found if isinstance(one, Answers)]


def same(some: Sequence[Answers], others: Sequence[Answers]) -> bool:
    """Whether answers agree in every token and in every bit of the likelihoods."""
    return all(
        a.tokens == b.tokens and np.array_equal(a.nll, b.nll) and a.decoded == b.decoded
        for a, b in zip(some, others, strict=True)
    )


@pytest.fixture
def request_20(tiny_pool: ModelPool) -> Request:
    return Request.build(WordTask("one", count=20), "search", tiny_pool.tokenizer, 8)


def test_every_prefix_is_computed_once(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request
) -> None:
    stacks = stacks_of(members)
    assert distinct_prefixes(stacks) == 18 and sum(len(s.keys) for s in stacks) == 24
    together, apart = Sharing(), Sharing()
    answers_of(stacks, request_20, tiny_pool, together)
    for stack in stacks:
        answers_of([stack], request_20, tiny_pool, apart)
    batches = len(request_20.batches)
    assert batches > 1
    assert together.work.prefixes == 18 * batches
    assert apart.work.prefixes == 24 * batches


def test_an_answer_does_not_depend_on_the_other_candidates(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request
) -> None:
    stacks = stacks_of(members)
    alone = [answers_of([stack], request_20, tiny_pool)[0] for stack in stacks]
    assert same(answers_of(stacks, request_20, tiny_pool), alone)
    order = [3, 7, 1, 0, 6, 2, 5, 4]
    shuffled = answers_of([stacks[n] for n in order], request_20, tiny_pool)
    assert same(shuffled, [alone[n] for n in order])
    twice = answers_of([stacks[0], stacks[0], stacks[6]], request_20, tiny_pool)
    assert same(twice, [alone[0], alone[0], alone[6]])
    assert len({tuple(map(tuple, one.tokens)) for one in alone if None not in one.tokens}) == 8


@torch.inference_mode()
def test_all_families_agree_with_an_ordinary_forward(
    family_pool: ModelPool, tiny_pool: ModelPool
) -> None:
    """Prompts beyond the window of 6, padded; joined and one prefix at a time."""
    texts = ("a | a[0:4]", "a | a[0:2] + b[3] + b[1]", "b | b[0] + a[1] + b[3] + a[3]", "b | a[1]")
    stacks = stacks_of(MemberSet(family_pool), texts)
    request = Request.build(WordTask("one", count=20), "search", tiny_pool.tokenizer, 20)
    (batch,) = request.batches
    assert batch.input_ids.shape[1] > 6
    for how in (Sharing(join="never"), Sharing(join="always")):
        found = list(Walk(stacks, batch, True, how).run(range(4)))
        assert sorted(one.stack for one in found) == [0, 1, 2, 3]
        for one in found:
            assert isinstance(one, Arrived)
            stack = stacks[one.stack]
            plain = stack.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).logits
            error = (stack.logits(one.hidden) - plain).abs()[batch.attention_mask.bool()].max()
            assert error <= 1e-5 * plain.abs().max()
        assert how.work.prefixes == distinct_prefixes(stacks)
    plain, joined = (
        answers_of(stacks, request, tiny_pool, Sharing(join=join)) for join in ("never", "always")
    )
    for one, other, stack in zip(plain, joined, stacks, strict=True):
        (alone,) = answers_of([stack], request, tiny_pool)
        assert same([one], [alone]) and other.tokens == one.tokens
        assert other.nll == pytest.approx(one.nll, rel=1e-4)


def test_prefixes_that_meet_go_through_a_layer_together(
    members: MemberSet, tiny_pool: ModelPool
) -> None:
    request = Request.build(WordTask("one", count=20), "search", tiny_pool.tokenizer, 20)
    texts = [f"{stem} | {first}[0] + a[1] + b[2]" for stem in "abc" for first in "abc"]
    stacks = stacks_of(members, texts)
    never, always, exact = Sharing(join="never"), Sharing(join="always"), Sharing(join="exact")
    alone = answers_of(stacks, request, tiny_pool, never)
    joined = answers_of(stacks, request, tiny_pool, always)
    assert never.work.calls == never.work.prefixes == always.work.prefixes == 27
    # Four batches of this size fill a call: 3 = 2 + 1 and 9 = 4 + 4 + 1.
    assert always.work.calls == 3 * 2 + 2 * 3
    for one, other in zip(alone, joined, strict=True):
        assert one.tokens == other.tokens
        assert other.nll == pytest.approx(one.nll, rel=1e-4)
    assert same(answers_of(stacks, request, tiny_pool, exact), alone)


@pytest.mark.parametrize("harmless", [True, False])
def test_a_shape_is_joined_only_if_a_trial_changes_nothing(
    members: MemberSet,
    tiny_pool: ModelPool,
    monkeypatch: pytest.MonkeyPatch,
    harmless: bool,
) -> None:
    request = Request.build(WordTask("one", count=20), "search", tiny_pool.tokenizer, 20)
    stacks = stacks_of(members, [f"a | {first}[0] + a[1] + b[2]" for first in "ab"])
    monkeypatch.setattr(sharing, "_equal", lambda *_: harmless)
    how = Sharing()
    answers_of(stacks, request, tiny_pool, how)
    # Layers 1 and 2 have one shape: tried at the first, joined or not at the second.
    assert how.work.prefixes == 6
    assert how.work.calls == 2 + 3 + (1 if harmless else 2)


def test_a_trial_sees_the_last_bit() -> None:
    hidden = torch.rand(2, 3)
    states = (States(torch.rand(2), torch.rand(2)),)
    node = Node(0, 1)
    place = sharing._Place(node, hidden, states)
    nudged = torch.nextafter(hidden, hidden + 1)
    assert sharing._equal(place, sharing._Place(node, hidden.clone(), states))
    assert not sharing._equal(place, sharing._Place(node, nudged, states))
    other = (States(states[0].keys, torch.nextafter(states[0].values, hidden.new_ones(2))),)
    assert not sharing._equal(place, sharing._Place(node, hidden, other))


@torch.inference_mode()
def test_only_the_states_of_one_path_are_held(members: MemberSet, request_20: Request) -> None:
    """Nine leaves below three branches: level by level there would be nine states at once."""
    texts = [f"a | {x}[0] + {y}[1] + a[2] + a[2]" for x in "abc" for y in "abc"]
    stacks = stacks_of(members, texts)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def count(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(output))
        most = max(most, sum(ref() is not None for ref in alive))

    for stack in stacks:
        for layer in stack.layers:
            layer.register_forward_hook(count)
    walk = Walk(stacks, request_20.batches[0], False, Sharing(join="never"))
    assert sum(1 for _ in walk.run(range(9))) == 9
    assert len(alive) == distinct_prefixes(stacks) == 30
    assert most <= 4


@pytest.mark.parametrize("size", [1, 20_000])
def test_little_memory_changes_nothing_but_the_number_of_decoding_loops(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request, size: int
) -> None:
    stacks = stacks_of(members)
    much, little = Sharing(), Sharing(activation_bytes=size)
    whole = answers_of(stacks, request_20, tiny_pool, much)
    assert same(answers_of(stacks, request_20, tiny_pool, little), whole)
    assert little.work.decoding_calls > much.work.decoding_calls


def test_one_loop_decodes_all_candidates(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request
) -> None:
    together, apart = Sharing(), Sharing()
    answers_of(stacks_of(members), request_20, tiny_pool, together)
    for stack in stacks_of(members):
        answers_of([stack], request_20, tiny_pool, apart)
    # Of the 24 layers of the batch 15 are different at their depth.
    assert 0 < together.work.decoding_calls <= apart.work.decoding_calls * 15 / 24


def test_running_out_of_memory_in_the_walk_repeats_no_candidate(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request
) -> None:
    plain = answers_of(stacks_of(members), request_20, tiny_pool)
    stacks = stacks_of(members)
    calls = []

    def fail(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        hidden = arguments[0]
        calls.append(len(hidden))
        if hidden.shape[1] > 1 and len(hidden) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    stacks[6].layers[0].register_forward_pre_hook(fail)  # the last to be reached
    halved = answers_of(stacks, request_20, tiny_pool, Sharing(join="never"))
    assert max(calls) > 3 and [one.decoded for one in halved] == [20] * 8
    for one, other in zip(plain, halved, strict=True):
        assert one.tokens == other.tokens
        assert other.nll == pytest.approx(one.nll, rel=1e-4)


@pytest.mark.parametrize("columns", ["all", "decoding"])
def test_a_layer_that_breaks_takes_down_those_that_use_it(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request, columns: str
) -> None:
    plain = answers_of(stacks_of(members), request_20, tiny_pool)
    stacks = stacks_of(members)

    def fail(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if columns == "all" or arguments[0].shape[1] == 1:
            raise IndexError("layer fell off")

    stacks[7].layers[2].register_forward_pre_hook(fail)  # c[0], which nobody else has there
    stacks[6].layers[2].register_forward_pre_hook(fail)  # but this one, after another prefix
    found = answer_together(stacks, request_20, tiny_pool.tokenizer, all_texts=True)
    for number, one in enumerate(found):
        if number in (6, 7):
            assert isinstance(one, str) and "IndexError: layer fell off" in one
        else:
            assert isinstance(one, Answers) and same([one], [plain[number]])


def test_a_model_that_cannot_be_listened_to_harms_nobody_with_its_stem(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answers_of(stacks_of(members), request_20, tiny_pool)
    stacks = stacks_of(members)

    def fail(*_: object, **__: object) -> None:
        raise IndexError("no rotary embedding")

    monkeypatch.setattr(stacks[0], "listen", fail)  # the first with this stem, so it speaks for all
    found = answer_together(stacks, request_20, tiny_pool.tokenizer, all_texts=True)
    assert isinstance(found[0], str) and "no rotary embedding" in found[0]
    assert same([one for one in found[1:] if isinstance(one, Answers)], plain[1:])


def test_invalid_logits_harm_nobody_else(
    members: MemberSet, tiny_pool: ModelPool, request_20: Request
) -> None:
    """Its first layers are everybody's, and so are the passes and loops it takes part in."""
    members.add(wild := blend(1.0, 0.0, 0.0, scale=1e60))
    plain = answers_of(stacks_of(members), request_20, tiny_pool)
    stacks = stacks_of(members, (*BATCH, f"a | a[0:2] + {wild.name}[2]"))
    *others, broken = answer_together(stacks, request_20, tiny_pool.tokenizer, all_texts=True)
    assert isinstance(broken, str) and "InvalidLogitsError" in broken
    assert same([one for one in others if isinstance(one, Answers)], plain)


def test_small_leads_in_the_loop_are_decoded_apart(
    members: MemberSet,
    tiny_pool: ModelPool,
    request_20: Request,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stacks = stacks_of(members)
    trusting, wary = Sharing(), Sharing()
    sure = answers_of(stacks, request_20, tiny_pool, trusting)
    monkeypatch.setitem(scoring.MARGIN, torch.float32, 0.05)
    assert same(answers_of(stacks, request_20, tiny_pool, wary), sure)
    assert trusting.work.apart == 0 and 20 < wary.work.apart < 160


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="join=sometimes"):
        Sharing(join="sometimes")
    with pytest.raises(InputError, match="no memory"):
        Sharing(activation_bytes=0)

"""What is computed quickly is what plain Hugging Face decoding answers, item by item."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hm3rl.errors import HM3Error
from hm3rl.evaluation import answers as answers_module
from hm3rl.evaluation import scoring
from hm3rl.evaluation.answers import Answers, answer_together, end_tokens
from hm3rl.evaluation.requests import Batch, Encoded, Request
from hm3rl.evaluation.scoring import ForcedBatch, InvalidLogitsError, compare
from hm3rl.evaluation.sharing import Sharing
from hm3rl.evaluation.spelling import Spelling
from hm3rl.evaluation.stack import Stack
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.assembly import assemble
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Task
from hm3rl.tasks.code import CodeTask
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.translation import TranslationTask
from tests.evaluation.conftest import EchoTask, WordTask


def answer(
    model: PreTrainedModel,
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    all_texts: bool,
    sharing: Sharing | None = None,
) -> Answers:
    """The answers of one model that has no failure."""
    (found,) = answer_together(
        [Stack.of_model(model)], request, tokenizer, all_texts, sharing=sharing
    )
    assert not isinstance(found, str), found
    return found


def teacher_forced(model: PreTrainedModel, batch: Batch) -> ForcedBatch:
    """The teacher-forced pass by an ordinary forward."""
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=batch.predicting,
    ).logits
    return compare(logits, batch, {2}, model.dtype)


def generate(model: PreTrainedModel, ids: Encoded, limit: int, end: int) -> list[int]:
    """Plain greedy decoding of one item by transformers."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids.prompt]),
            attention_mask=torch.ones(1, len(ids.prompt), dtype=torch.long),
            max_new_tokens=limit,
            max_length=None,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=end,
        )
    tokens = out[0, len(ids.prompt) :].tolist()
    return tokens[: tokens.index(end)] if end in tokens else tokens


def reference_nll(model: PreTrainedModel, ids: Encoded) -> float:
    """Mean negative log-likelihood of one item, without batch, padding or cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids.prompt + ids.answer])).logits[0]
    first = len(ids.prompt) - 1
    chosen = logits[first : first + len(ids.answer)].log_softmax(-1)
    return -float(chosen[range(len(ids.answer)), list(ids.answer)].mean())


def zoo_candidates(members: MemberSet) -> list[Candidate]:
    experts = members.pool.expert_names
    recipe = MergeRecipe("task_arithmetic", tuple((e, 0.34) for e in experts), scale=1.5)
    merged = members.add(recipe)
    mixed = f"math | math[0:3] + {merged}[3:6] + code[6:8]"
    return [
        Candidate.whole("translation", members.pool.num_layers),
        Candidate.whole(recipe, members.pool.num_layers),
        Candidate.of(LayerPath.parse(mixed), members.recipes),
    ]


@pytest.mark.parametrize("number", range(3))
def test_real_models_answer_as_plain_generation_does(zoo_members: MemberSet, number: int) -> None:
    model = assemble(zoo_candidates(zoo_members)[number], zoo_members)
    tokenizer = zoo_members.pool.tokenizer
    exact = 0
    for task in (TranslationTask(16, 2), MathTask(16, 2), CodeTask(None, 16, 2)):
        request = Request.build(task, "search", tokenizer, 256)
        found = answer(model, request, tokenizer, all_texts=True)
        for ids, tokens in zip(request.encoded, found.tokens, strict=True):
            assert tokens == generate(model, ids, task.max_new_tokens, tokenizer.eos_token_id)
            exact += tokens == list(ids.answer[:-1])
        nll = [reference_nll(model, ids) for ids in request.encoded]
        assert found.nll == pytest.approx(nll, abs=1e-4)
    assert 5 < exact < 43  # both kinds of items were met


def test_the_quick_way_scores_exact_match_as_generation_does(zoo_members: MemberSet) -> None:
    tokenizer = zoo_members.pool.tokenizer
    for candidate in zoo_candidates(zoo_members):
        model = assemble(candidate, zoo_members)
        for task in (TranslationTask(40, 2), MathTask(40, 2)):
            request = Request.build(task, "search", tokenizer, 256)
            quick = answer(model, request, tokenizer, all_texts=False)
            full = answer(model, request, tokenizer, all_texts=True)
            assert quick.decoded <= full.decoded
            for ids, a, b in zip(request.encoded, quick.tokens, full.tokens, strict=True):
                assert (a is not None) == (b == list(ids.answer[:-1]))


def test_batched_agrees_with_one_by_one(zoo_members: MemberSet) -> None:
    model = assemble(zoo_candidates(zoo_members)[2], zoo_members)
    tokenizer = zoo_members.pool.tokenizer
    task = CodeTask(None, 24, 2)
    together = answer(model, Request.build(task, "search", tokenizer, 256), tokenizer, True)
    singly = answer(model, Request.build(task, "search", tokenizer, 1), tokenizer, True)
    assert together.tokens == singly.tokens
    assert together.nll == pytest.approx(singly.nll, rel=1e-4, abs=1e-5)


FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "sliding window": lambda: MistralConfig(sliding_window=4, num_key_value_heads=2, **TINY),
    "learned positions": lambda: GPT2Config(
        n_embd=16, n_layer=3, n_head=4, n_positions=13, n_inner=32, vocab_size=32,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
    ),
}  # fmt: skip
TINY: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_agree_with_plain_generation(tiny_pool: ModelPool, family: str) -> None:
    """Prompts reach beyond the window of 4, and to the last of 13 learned positions."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    tokenizer = tiny_pool.tokenizer
    task = WordTask("one", count=30)
    request = Request.build(task, "search", tokenizer, 8, max_positions=13)
    found = answer(model, request, tokenizer, all_texts=True)
    assert found.decoded == 30
    for ids, tokens in zip(request.encoded, found.tokens, strict=True):
        assert tokens == generate(model, ids, task.max_new_tokens, tokenizer.eos_token_id)
    nll = [reference_nll(model, ids) for ids in request.encoded]
    assert found.nll == pytest.approx(nll, rel=1e-4)


def test_small_leads_are_decoded_from_the_prompt(
    zoo_members: MemberSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an absurd margin nothing is trusted, everything is decoded, and nothing changes."""
    model = assemble(zoo_candidates(zoo_members)[1], zoo_members)
    tokenizer = zoo_members.pool.tokenizer
    request = Request.build(MathTask(30, 2), "search", tokenizer, 256)
    trusting = answer(model, request, tokenizer, all_texts=True)
    monkeypatch.setitem(scoring.MARGIN, torch.float32, 10.0)
    wary = answer(model, request, tokenizer, all_texts=True)
    assert wary.decoded == 30 > trusting.decoded
    assert wary.tokens == trusting.tokens
    stopped = answer(model, request, tokenizer, all_texts=False)
    for ids, quick, full in zip(request.encoded, stopped.tokens, wary.tokens, strict=True):
        assert (quick is not None) == (full == list(ids.answer[:-1]))


def test_exactness_needs_the_end_token(zoo_members: MemberSet) -> None:
    """The reference with its last word cut off is what the model says, but not where it ends."""
    model = assemble(Candidate.whole("math", 8), zoo_members)
    tokenizer = zoo_members.pool.tokenizer
    request = Request.build(MathTask(60, 2), "search", tokenizer, 256)
    with torch.inference_mode():
        (forced, *_) = [teacher_forced(model, b) for b in request.batches]
    exact = forced.exact
    assert bool(exact.any())
    batch = forced.batch
    longer = [row for row in range(len(batch.rows)) if exact[row] and batch.answer_lengths[row] > 2]
    targets = batch.targets.clone()
    lengths = batch.answer_lengths.clone()
    for row in longer:
        last = int(lengths[row]) - 1
        targets[row, last - 1], targets[row, last] = tokenizer.eos_token_id, -1
        lengths[row] -= 1
    cut = type(batch)(
        batch.rows, batch.input_ids, batch.attention_mask, batch.position_ids, targets,
        batch.prompt_lengths, lengths,
    )  # fmt: skip
    with torch.inference_mode():
        again = teacher_forced(model, cut)
    assert longer and not bool(again.exact[longer].any())
    assert (again.agreed[longer] == lengths[longer] - 1).all()


def test_other_end_tokens_count(tiny_pool: ModelPool, members: MemberSet) -> None:
    model = assemble(Candidate.whole("a", 3), members)
    task = WordTask("one", count=8)
    request = Request.build(task, "search", tiny_pool.tokenizer, 8)
    plain = answer(model, request, tiny_pool.tokenizer, all_texts=True)
    first = plain.tokens[0]
    assert first
    model.generation_config.eos_token_id = [2, first[0]]
    assert end_tokens(model, tiny_pool.tokenizer) == {2, first[0]}
    assert answer(model, request, tiny_pool.tokenizer, all_texts=True).tokens[0] == []
    model.generation_config.eos_token_id = 2


NO_MEMORY = "[enforce fail] DefaultCPUAllocator: can't allocate memory"


def spite(model: PreTrainedModel, most: int, message: str) -> list[int]:
    """Let a model's last layer fail above so many rows; returns the sizes it is called with."""
    sizes: list[int] = []

    def fail(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(arguments[0]))
        if sizes[-1] > most:
            raise RuntimeError(message)

    model.model.layers[-1].register_forward_pre_hook(fail)
    return sizes


def test_running_out_of_memory_halves_the_batch(members: MemberSet) -> None:
    candidate = Candidate.whole("a", 3)
    tokenizer = members.pool.tokenizer
    request = Request.build(WordTask("one", count=20), "search", tokenizer, 20)
    plain = answer(assemble(candidate, members), request, tokenizer, all_texts=True)
    model = assemble(candidate, members)  # a view of its own, so the hook stays here
    sizes = spite(model, 4, NO_MEMORY)
    halved = answer(model, request, tokenizer, all_texts=True)
    assert max(sizes) == 20 and halved.tokens == plain.tokens
    assert halved.decoded == plain.decoded == 20
    assert halved.nll == pytest.approx(plain.nll, rel=1e-4)


def test_running_out_of_memory_halves_what_is_decoded_apart(members: MemberSet) -> None:
    tokenizer = members.pool.tokenizer
    request = Request.build(WordTask("one", count=20), "search", tokenizer, 10)
    model = deepcopy(members.model("a")).to(torch.bfloat16)
    plain = answer(model, request, tokenizer, all_texts=True)
    sizes = spite(model, 16, NO_MEMORY)
    halved = answer(model, request, tokenizer, all_texts=True)
    assert {64, 32, 16} < set(sizes) and halved.decoded == plain.decoded == 20
    assert halved.tokens == plain.tokens  # digits may change with the shape, these answers do not


def test_other_errors_are_not_taken_for_lack_of_memory(members: MemberSet) -> None:
    candidate = Candidate.whole("a", 3)
    tokenizer = members.pool.tokenizer
    request = Request.build(WordTask("one", count=8), "search", tokenizer, 8)
    model = assemble(candidate, members)
    spite(model, 0, NO_MEMORY)
    with pytest.raises(HM3Error, match="single item"):
        answer(model, request, tokenizer, True)
    model = assemble(candidate, members)
    sizes = spite(model, 0, "shape mismatch")
    (broken,) = answer_together([Stack.of_model(model)], request, tokenizer, True)
    assert isinstance(broken, str) and "RuntimeError: shape mismatch" in broken
    assert sizes == [8]


def test_invalid_logits_are_a_failure(members: MemberSet) -> None:
    recipe = MergeRecipe("task_arithmetic", (("a", 1.0),), scale=1e60)
    model = assemble(Candidate.whole(recipe, 3), members)
    tokenizer = members.pool.tokenizer
    request = Request.build(WordTask("one"), "search", tokenizer, 8)
    (broken,) = answer_together([Stack.of_model(model)], request, tokenizer, True)
    assert isinstance(broken, str) and "InvalidLogitsError" in broken
    with torch.inference_mode(), pytest.raises(InvalidLogitsError):
        teacher_forced(model, request.batches[0])


def test_an_answer_that_leaves_the_reference_by_a_special_token_is_decoded(
    members: MemberSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Special tokens vanish from the text, so "w1 <s> w2" still reads as "w1 w2"."""
    tokenizer = members.pool.tokenizer
    request = Request.build(EchoTask("one"), "search", tokenizer, 64)
    model = members.model("a")
    for token, decoded in ((9, 0), (1, 12)):

        def bent(*arguments: Any, token: int = token) -> ForcedBatch:
            forced = compare(*arguments)
            assert not bool(forced.exact.any())
            return replace(forced, next_token=torch.full_like(forced.next_token, token))

        monkeypatch.setattr(answers_module, "compare", bent)
        found = answer(model, request, tokenizer, all_texts=False)
        assert found.decoded == decoded
    for ids, tokens in zip(request.encoded, found.tokens, strict=True):
        full = generate(model, ids, 6, 2)
        assert tokens == full or (tokens is None and full != list(ids.answer[:-1]))
    assert any(tokens is not None for tokens in found.tokens)


def test_large_logits_are_compared_in_pieces(
    members: MemberSet, tiny_pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request.build(WordTask("one", count=20), "search", tiny_pool.tokenizer, 8)
    model = members.model("a")
    whole = answer(model, request, tiny_pool.tokenizer, all_texts=True)
    sizes = []

    def noting(logits: torch.Tensor, *rest: Any) -> ForcedBatch:
        sizes.append(logits.nbytes)
        return compare(logits, *rest)

    monkeypatch.setattr(answers_module, "compare", noting)
    monkeypatch.setattr(answers_module, "LOGIT_BYTES", 2000)
    pieces = answer(model, request, tiny_pool.tokenizer, all_texts=True)
    assert len(sizes) > len(request.batches) and max(sizes) <= 2000
    assert pieces.tokens == whole.tokens and pieces.decoded == whole.decoded
    assert pieces.nll == pytest.approx(whole.nll, rel=1e-5)


def test_without_one_spelling_every_other_answer_is_decoded(
    zoo_members: MemberSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = assemble(zoo_candidates(zoo_members)[1], zoo_members)
    tokenizer = zoo_members.pool.tokenizer
    task: Task = MathTask(30, 2)
    request = Request.build(task, "search", tokenizer, 256)
    spared = answer(model, request, tokenizer, all_texts=False)
    unsure = Spelling(tokenizer)
    unsure.one = False
    monkeypatch.setattr(answers_module, "spelling_of", lambda _: unsure)
    decoded = answer(model, request, tokenizer, all_texts=False)
    assert spared.decoded == 0 < decoded.decoded
    assert None not in decoded.tokens
    assert np.array_equal(
        [t is not None for t in spared.tokens],
        [t == list(i.answer[:-1]) for t, i in zip(decoded.tokens, request.encoded, strict=True)],
    )


def test_low_precision_answers_do_not_depend_on_what_else_is_asked(
    zoo_members: MemberSet,
) -> None:
    """In bfloat16 most answers have a narrow lead: they are decoded in one shape, whoever asks."""
    tokenizer = zoo_members.pool.tokenizer
    model = deepcopy(assemble(zoo_candidates(zoo_members)[1], zoo_members)).to(torch.bfloat16)
    for task in (CodeTask(None, 40, 2), MathTask(40, 2)):
        request = Request.build(task, "search", tokenizer, 256)
        sharing = Sharing()
        whole = answer(model, request, tokenizer, True, sharing)
        assert whole.decoded == sharing.work.apart > 0
        part = answer(model, request.part((1, 7, 30)), tokenizer, all_texts=True)
        assert [part.tokens[n] for n in (1, 7, 30)] == [whole.tokens[n] for n in (1, 7, 30)]
        spared = answer(model, request, tokenizer, all_texts=False)
        for ids, quick, full in zip(request.encoded, spared.tokens, whole.tokens, strict=True):
            if task.exact_only:
                assert (quick is not None) == (full == list(ids.answer[:-1]))
            else:
                assert quick == full

"""Sources of different architectures in one path: every layer brings its own settings.

The reference runs each layer of a path by hand with the masks and position embeddings that its own
source gave it in an ordinary forward, with prompts longer than every window.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from hm3rl.errors import InputError
from hm3rl.export.checkpoint import export_candidate
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.descriptors import layer_descriptors
from hm3rl.paths.expressible import check_expressible
from hm3rl.paths.families import decoder_layers
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OTHER = {**SHAPE, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 40}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": 3, "n_positions": 64, "initializer_range": 0.3}


def rope(theta: float) -> dict:
    return {"rope_type": "default", "rope_theta": theta}


@dataclass
class Case:
    base: PretrainedConfig
    other: PretrainedConfig
    refused: str


CASES = {
    "rope": Case(
        LlamaConfig(**SHAPE, rope_parameters=rope(1e4)),
        LlamaConfig(**SHAPE, rope_parameters=rope(1e2)),
        r"rope \(.*100\.0.*10000\.0",
    ),
    "heads_and_width": Case(LlamaConfig(**SHAPE), LlamaConfig(**OTHER), r"intermediate_size 40"),
    "eps": Case(
        LlamaConfig(**SHAPE), LlamaConfig(**SHAPE, rms_norm_eps=0.1), "rms_norm_eps 0.1.* 1e-06"
    ),
    "windows": Case(
        MistralConfig(**SHAPE, sliding_window=5),
        MistralConfig(**SHAPE, sliding_window=9),
        "sliding window 9.* 5",
    ),
    "no_window": Case(
        MistralConfig(**SHAPE, sliding_window=None),
        MistralConfig(**SHAPE, sliding_window=6),
        "sliding window 6.* None",
    ),
    "layer_types": Case(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=6, layer_types=MIXED),
        Qwen3Config(**OTHER, head_dim=4),
        "family qwen3.* qwen2",
    ),
    "llama_in_gemma3": Case(
        Gemma3TextConfig(**SHAPE, **GEMMA, layer_types=MIXED), LlamaConfig(**SHAPE), "llama"
    ),
    "gemma3_in_llama": Case(
        LlamaConfig(**SHAPE), Gemma3TextConfig(**SHAPE, **GEMMA, layer_types=MIXED), "gemma3_text"
    ),
    "gemma3_full_in_sliding": Case(
        Gemma3TextConfig(**SHAPE, **GEMMA, layer_types=["sliding_attention"] * 3),
        Gemma3TextConfig(**OTHER, **GEMMA, layer_types=["full_attention"] * 3),
        "intermediate_size 40",
    ),
    "gemma2_and_phi3": Case(
        Gemma2Config(**SHAPE, **GEMMA), Phi3Config(**OTHER, sliding_window=9), "phi3"
    ),
    "phi3_and_gemma2": Case(
        Phi3Config(**OTHER, sliding_window=9), Gemma2Config(**SHAPE, **GEMMA), "gemma2"
    ),
    "gpt2_heads": Case(
        GPT2Config(**GPT2, n_head=4), GPT2Config(**GPT2, n_head=2), "num_attention_heads 2.* 4"
    ),
}

PATH = LayerPath.parse("base | base[0] + b[0:3] + b[2] + base[1:3]")
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="module", params=list(CASES))
def case(request) -> tuple[str, Case]:
    return request.param, CASES[request.param]


@pytest.fixture(scope="module")
def pools(tmp_path_factory, save_pool):
    loaded: dict[str, ModelPool] = {}

    def load(name: str) -> ModelPool:
        if name not in loaded:
            root = tmp_path_factory.mktemp(name)
            one = save_pool(root / "one", CASES[name].base, ("a",))
            two = save_pool(root / "two", CASES[name].other, ("a",))
            experts = {"a": one["a"], "b": two["a"]}
            loaded[name] = ModelPool.load(one["base"], experts, architecture="mixed")
        return loaded[name]

    return load


@pytest.fixture
def members(case, pools) -> MemberSet:
    return MemberSet(pools(case[0]))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 32, (2, 14), generator=torch.Generator().manual_seed(3))


def native_inputs(model, tokens) -> list[tuple[tuple, dict]]:
    """Catch what each layer is called with, besides the hidden states, by its own model."""
    model, caught = copy.deepcopy(model), []

    def catch(module, args, kwargs):
        caught.append((args[1:], {**kwargs, "past_key_values": None, "use_cache": False}))

    for layer in decoder_layers(model):
        layer.register_forward_pre_hook(catch, with_kwargs=True)
    model(tokens, use_cache=False)
    return caught


def by_hand(members: MemberSet, tokens: torch.Tensor) -> torch.Tensor:
    """Hidden states after the path's layers, each run as in its own model."""
    native = {name: native_inputs(members.model(name), tokens) for name in ("base", "b")}
    embedded = []
    host = copy.deepcopy(members.model("base"))
    decoder_layers(host)[0].register_forward_pre_hook(lambda _, args: embedded.append(args[0]))
    host(tokens, use_cache=False)
    hidden = embedded[0]
    for member, layer in PATH.refs:
        args, kwargs = native[member][layer]
        if args:  # GPT-2 takes cache and mask by position
            kwargs = {k: v for k, v in kwargs.items() if k != "past_key_values"}
        hidden = decoder_layers(members.model(member))[layer](hidden, *args, **kwargs)
    return hidden


def test_every_layer_computes_what_it_computes_at_home(members, tokens):
    model = assemble(Candidate(PATH), members)
    last = []
    decoder_layers(model)[-1].register_forward_hook(lambda _, args, out: last.append(out))
    model(tokens, use_cache=False)
    expected = by_hand(members, tokens)
    scale = expected.abs().max().item()
    torch.testing.assert_close(last[0], expected, atol=1e-5 * scale, rtol=0)


def test_cached_uncached_and_left_padded_tokens_are_equal(members, tokens):
    model = assemble(Candidate(PATH), members)
    cached = model.generate(tokens, use_cache=True, **GREEDY)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **GREEDY))
    padded, mask = tokens.clone(), torch.ones_like(tokens)
    padded[0, :3] = mask[0, :3] = 0
    batch = model.generate(padded, attention_mask=mask, **GREEDY)[0, tokens.shape[1] :]
    alone = model.generate(tokens[:1, 3:], **GREEDY)[0, tokens.shape[1] - 3 :]
    assert torch.equal(batch, alone)


def test_each_member_alone_is_itself(members, tokens):
    for name in members.pool.names:
        model = assemble(Candidate.whole(name, 3), members)
        assert torch.equal(model(tokens).logits, members.model(name)(tokens).logits)


def test_export_is_refused_with_both_sides_and_leaves_nothing(case, members, tmp_path):
    with pytest.raises(InputError, match=r"of (b|base) stands at depth .* needs") as caught:
        export_candidate(Candidate(PATH), members, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=case[1].refused):
        raise caught.value


def test_members_alone_can_still_be_exported(members):
    check_expressible(Candidate.whole("b", 3), members)
    check_expressible(Candidate(LayerPath.parse("a | base[0] + a[1] + base[1]")), members)


def test_nothing_is_copied(members):
    model = assemble(Candidate(PATH), members)
    lent = {
        tensor.data_ptr()
        for name in members.pool.names
        for tensor in members.model(name).state_dict().values()
    }
    assert {tensor.data_ptr() for tensor in model.state_dict().values()} <= lent


def test_only_experts_of_the_bases_architecture_are_merged(members):
    assert members.pool.mergeable == ("a",)
    members.model(members.add(MergeRecipe.of("task_arithmetic", {"a": 0.5})))
    with pytest.raises(InputError, match=r"expert 'b' and base differ in .*cannot be merged"):
        members.add(MergeRecipe.of("task_arithmetic", {"a": 0.5, "b": 0.5}))


def test_descriptors_exist_for_every_member(members):
    found = layer_descriptors(members, ["a", "b", "base"])
    assert found.shape[:2] == (3, 3)
    assert abs(found).max() < 50
    assert abs(found[1]).max() > 0


def test_a_pool_of_one_architecture_refuses_and_says_how_to_stitch(pools, case):
    pool = pools(case[0])
    with pytest.raises(InputError, match=r"expert 'b' and base differ[\s\S]*architecture=mixed"):
        ModelPool.load(pool.paths["base"], {"b": pool.paths["b"]})


def test_layers_called_otherwise_cannot_follow(tmp_path, save_pool):
    llama = save_pool(tmp_path / "one", LlamaConfig(**SHAPE), ("a",))
    gpt2 = save_pool(tmp_path / "two", GPT2Config(**GPT2, n_head=4), ("a",))
    pool = ModelPool.load(llama["base"], {"b": gpt2["a"]}, architecture="mixed")
    with pytest.raises(InputError, match=r"b \(gpt2 of hidden size 16\) cannot follow base \(llam"):
        assemble(Candidate(PATH), MemberSet(pool))


def test_other_hidden_sizes_are_refused(tmp_path, save_pool):
    one = save_pool(tmp_path / "one", LlamaConfig(**SHAPE), ("a",))
    two = save_pool(tmp_path / "two", LlamaConfig(**{**SHAPE, "hidden_size": 32}), ("a",))
    with pytest.raises(InputError, match="differ in hidden_size: 32 against 16"):
        ModelPool.load(one["base"], {"b": two["a"]}, architecture="mixed")

"""Zero-copy assembly of Llama paths; other families are in test_families.py."""

from __future__ import annotations

import time

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

RECIPE = MergeRecipe.of("ties", {"a": 0.5, "b": 0.5}, density=0.6)
STITCHED = f"a | a[0:2] + {RECIPE.name}[2] + b[1] + b[1] + c[0]"


@pytest.fixture
def members(tiny_pool) -> MemberSet:
    return MemberSet(tiny_pool)


@pytest.fixture
def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 32, (2, 11), generator=generator)


def candidate(text: str, **settings) -> Candidate:
    return Candidate.of(LayerPath.parse(text), [RECIPE], **settings)


def test_whole_members_compute_what_they_compute_alone(members, tiny_pool, tokens):
    for name in tiny_pool.names:
        model = assemble(Candidate.whole(name, 3), members)
        assert torch.equal(model(tokens).logits, tiny_pool.model(name)(tokens).logits)


def test_nothing_is_copied(members):
    model = assemble(candidate(STITCHED), members)
    lent = {
        tensor.data_ptr()
        for name in ("a", "b", "c", RECIPE.name)
        for tensor in members.model(name).state_dict().values()
    }
    assert {tensor.data_ptr() for tensor in model.state_dict().values()} <= lent
    layers = model.model.layers
    repeated = layers[3].mlp.up_proj.weight, layers[4].mlp.up_proj.weight
    assert repeated[0].data_ptr() == repeated[1].data_ptr()


def test_layers_run_in_the_order_of_the_path(members, tokens):
    """Re-derive the stitched forward layer by layer, with the sources' own modules."""
    model = assemble(candidate(STITCHED), members)
    stem = members.model("a").model
    hidden = stem.embed_tokens(tokens)
    positions = torch.arange(tokens.shape[1])[None]
    rotary = stem.rotary_emb(hidden, positions)
    for member, layer in LayerPath.parse(STITCHED).refs:
        source = members.model(member).model.layers[layer]
        hidden = source(hidden, position_embeddings=rotary, position_ids=positions)
    logits = members.model("a").lm_head(stem.norm(hidden))
    torch.testing.assert_close(model(tokens).logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("text", [STITCHED, "b | c[2]", "c | a[2] + a[1] + a[0]"])
def test_cached_and_uncached_generation_agree(members, tokens, text):
    model = assemble(candidate(text), members)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(tokens, use_cache=True, **settings)
    plain = model.generate(tokens, use_cache=False, **settings)
    assert torch.equal(cached, plain)
    assert cached.shape[1] > tokens.shape[1] + 1


def test_left_padding_does_not_change_what_is_generated(members, tokens):
    model = assemble(candidate(STITCHED), members)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    alone = model.generate(tokens[:1, 4:], **settings)[0, 7:]
    padded = tokens.clone()
    padded[0, :4] = 0
    mask = torch.ones_like(padded)
    mask[0, :4] = 0
    batch = model.generate(padded, attention_mask=mask, **settings)[0, 11:]
    assert torch.equal(batch[: len(alone)], alone)


def test_sources_are_untouched(members, tiny_pool, tokens):
    before = {name: tiny_pool.model(name)(tokens).logits for name in tiny_pool.names}
    model = assemble(candidate(STITCHED), members)
    model(tokens, output_hidden_states=True)
    model.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)
    for name in tiny_pool.names:
        source = tiny_pool.model(name)
        assert torch.equal(source(tokens).logits, before[name])
        assert source.config.num_hidden_layers == 3
        assert [layer.self_attn.layer_idx for layer in source.model.layers] == [0, 1, 2]
        assert not any(layer._forward_hooks for layer in source.model.layers)


def test_hidden_states_are_one_per_layer_also_after_the_source_was_observed(
    members, tiny_pool, tokens
):
    tiny_pool.model("c")(tokens, output_hidden_states=True)
    try:
        model = assemble(candidate("c | c[0:3] + c[0]"), members)
        assert len(model(tokens, output_hidden_states=True).hidden_states) == 5
    finally:
        for layer in tiny_pool.model("c").model.layers:
            layer._forward_hooks.clear()
        del tiny_pool.model("c").model._output_capturing_hooks_installed


def test_stem_lends_embedding_norm_and_tied_head(members):
    model = assemble(candidate("b | a[0:3]"), members)
    lender = members.model("b")
    assert model.model.embed_tokens is lender.model.embed_tokens
    assert model.model.norm is lender.model.norm
    assert model.lm_head is lender.lm_head


def test_head_of_another_member_unties(members, tokens):
    model = assemble(candidate("b | a[0:3]", head="c"), members)
    assert model.lm_head.weight is members.model("c").lm_head.weight
    assert model.config.tie_word_embeddings is False
    assert members.model("b").config.tie_word_embeddings is True
    plain = assemble(candidate("b | a[0:3]"), members)
    assert not torch.equal(model(tokens).logits, plain(tokens).logits)


def test_bf16_models_are_assembled_in_bf16(tiny_pool_dir, tokens):
    pool = ModelPool.load(tiny_pool_dir["base"], {"a": tiny_pool_dir["a"]}, torch.bfloat16)
    model = assemble(Candidate(LayerPath.parse("a | base[0] + a[1:3]")), MemberSet(pool))
    assert model(tokens).logits.dtype == torch.bfloat16


def test_assembly_is_far_below_ten_milliseconds(members):
    target = candidate(STITCHED)
    assemble(target, members)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        assemble(target, members)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a | a[3]", "layer 3 of a, which has 3 layers"),
        ("a | poetry[0]", "no member 'poetry'"),
        ("poetry | a[0]", "no member 'poetry'"),
    ],
)
def test_impossible_paths_are_refused_with_a_reason(members, text, message):
    with pytest.raises(InputError, match=message):
        assemble(candidate(text), members)

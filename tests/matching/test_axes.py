"""What may be permuted: any such order leaves the function as it is, anything else does not."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, Olmo2Config, Qwen2Config

from hm3rl.errors import InputError
from hm3rl.matching.axes import KEYS, QUERIES, STREAM, axis_of, layout_of, orders_hash, permuted
from tests.matching.planted import TOKENS, logit_error, random_model, random_orders

KNOWN = ("llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")


@pytest.mark.parametrize("family", KNOWN)
def test_any_order_of_units_computes_the_same(family, family_configs):
    model = random_model(family_configs[family])
    before = model(TOKENS).logits
    layout = layout_of(model)
    other = permuted(model, layout, random_orders(layout))
    name = "model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(other.get_parameter(name), model.get_parameter(name))
    assert logit_error(model, other) < 1e-5
    assert torch.equal(model(TOKENS).logits, before)
    tied = model.config.tie_word_embeddings
    assert (other.lm_head.weight is other.model.embed_tokens.weight) == tied


def test_channels_of_queries_and_keys_cannot_move_inside_a_head(family_configs):
    model = random_model(family_configs["llama"])
    layout = layout_of(model)
    orders = layout.identity
    for kind in (QUERIES, KEYS):
        order = orders[axis_of(0, kind)].clone().reshape(-1, layout.heads.size)
        orders[axis_of(0, kind)] = order.flip(1).flatten()
    assert logit_error(model, permuted(model, layout, orders)) > 1e-3


def test_biases_move_along():
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    settings = {**shape, **heads, "attention_bias": True, "mlp_bias": True}
    for config in (LlamaConfig(**settings), Qwen2Config(**shape, **heads)):
        model = random_model(config)
        layout = layout_of(model)
        assert any(name.endswith("bias") for name in layout.tensors)
        assert logit_error(model, permuted(model, layout, random_orders(layout))) < 1e-5


@pytest.mark.parametrize("family", ["phi3", "gpt2", "gpt_neox"])
def test_architectures_of_other_tensors_are_refused(family, family_configs):
    with pytest.raises(InputError, match=r"units of model type .* cannot be matched") as caught:
        layout_of(random_model(family_configs[family]))
    assert "q_proj" in caught.value.remedy


def test_an_architecture_that_nobody_stitches_is_refused():
    config = Olmo2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=0,
    )
    with pytest.raises(InputError, match="olmo2"):
        layout_of(random_model(config))


def test_orders_have_a_hash_of_their_own(family_configs):
    layout = layout_of(random_model(family_configs["llama"]))
    orders = [layout.identity, random_orders(layout, 1), random_orders(layout, 2)]
    assert len({orders_hash(one) for one in orders}) == 3
    assert orders_hash(random_orders(layout, 1)) == orders_hash(orders[1])
    assert layout.sizes[STREAM] == 16

"""Every supported family: views against materialised copies, cached against uncached decoding.

Prompts are longer than the sliding window, which is what shows wrong layer types.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from hm3rl.errors import InputError
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.families import FAMILIES, decoder_layers, family_of, layer_prefix
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

PATHS = {
    "repeat": "a | a[0:2] + b[1] + b[1] + a[2:4]",
    "skip": "b | a[0] + b[3]",
    "reorder": "a | b[3] + a[2] + b[1] + a[0]",
    "shift": "a | a[1:4] + b[1]",
    "one": "b | a[1]",
}


def materialise(candidate: Candidate, members: MemberSet) -> torch.nn.Module:
    """Build the same model by deep copies of whole layers, with nothing shared."""
    path = candidate.path
    model = copy.deepcopy(members.model(path.stem))
    family = family_of(model.config)
    config = model.config
    layers = []
    for depth, (member, layer) in enumerate(path.refs):
        copied = copy.deepcopy(decoder_layers(members.model(member))[layer])
        for module in copied.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = depth
        layers.append(copied)
    inner = getattr(model, family.inner)
    setattr(inner, family.layers, torch.nn.ModuleList(layers))
    types = getattr(config, "layer_types", None)
    config.num_hidden_layers = len(layers)
    if types is not None:
        config.layer_types = [types[layer] for _, layer in path.refs]
    if hasattr(inner, "has_sliding_layers"):
        inner.has_sliding_layers = "sliding_attention" in config.layer_types
    return model


@pytest.fixture
def members(family_pool) -> MemberSet:
    return MemberSet(family_pool)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 32, (2, 15), generator=torch.Generator().manual_seed(2))


def test_all_families_are_tried(family_configs):
    assert {config.model_type for config in family_configs.values()} == set(FAMILIES)


@pytest.mark.parametrize("text", PATHS.values(), ids=PATHS)
def test_views_equal_materialised_copies_and_all_ways_of_decoding_agree(members, tokens, text):
    candidate = Candidate(LayerPath.parse(text))
    model = assemble(candidate, members)
    logits = model(tokens).logits
    assert torch.equal(logits, materialise(candidate, members)(tokens).logits)
    settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = model.generate(tokens, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **settings))
    padded, mask = tokens.clone(), torch.ones_like(tokens)
    padded[0, :4] = mask[0, :4] = 0
    together = model.generate(padded, attention_mask=mask, **settings)[0, tokens.shape[1] :]
    alone = model.generate(tokens[:1, 4:], **settings)[0, tokens.shape[1] - 4 :]
    assert torch.equal(together, alone)


def test_layers_keep_their_kind_at_a_new_depth(members, tokens):
    """A window is heeded exactly where the *source* layer has one."""
    types = getattr(members.pool.config, "layer_types", None)
    if types is None or "sliding_attention" not in types:
        return
    changed = tokens.clone()
    changed[:, 0] = 3 + (changed[:, 0] - 2) % 29
    for layer, kind in enumerate(types):
        model = assemble(Candidate(LayerPath.parse(f"a | a[{layer}]")), members)
        same = torch.equal(model(tokens).logits[:, -1], model(changed).logits[:, -1])
        assert same is (kind == "sliding_attention")


def test_prefixes_name_the_tensors_of_a_layer(members):
    names = members.pool.model("a").state_dict().keys()
    for layer in range(4):
        assert any(name.startswith(layer_prefix(members.pool.config, layer)) for name in names)


def test_an_eager_source_in_an_sdpa_path_computes_the_same(members, tokens):
    """Views take the path's configuration, so a source's attention kind does not leak."""
    if members.pool.model("a").config._attn_implementation != "sdpa":
        return
    pool = members.pool
    mixed = dict(pool._models)
    eager = AutoModelForCausalLM.from_pretrained(
        str(pool.paths["b"]), dtype=pool.dtype, attn_implementation="eager"
    )
    mixed["b"] = eager.eval().requires_grad_(False)
    changed = copy.copy(pool)
    object.__setattr__(changed, "_models", mixed)
    candidate = Candidate(LayerPath.parse(PATHS["repeat"]))
    ours = assemble(candidate, MemberSet(changed))(tokens).logits
    assert torch.equal(ours, assemble(candidate, members)(tokens).logits)


def test_other_families_are_refused_by_name():
    config = LlamaConfig()
    config.__class__ = type("OtherConfig", (LlamaConfig,), {"model_type": "other"})
    with pytest.raises(InputError, match=r"'other'[\s\S]*llama"):
        family_of(config)

"""Adapters as experts: what PEFT makes of them, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from hm3rl.errors import InputError
from hm3rl.models import adapter
from hm3rl.models.loading import quiet_transformers
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import named_tensors

TARGETS = {"gpt2": ["c_attn", "c_fc", "c_proj"], "gpt_neox": ["query_key_value", "dense_h_to_4h"]}
KINDS = {
    "plain": {},
    "rank_stabilised": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 5, "h.1.attn.c_attn": 5},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 9, "h.1.attn.c_attn": 9},
    },
    "head": {"modules_to_save": ["lm_head"]},
    "bias": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora": {"use_dora": True},
}
CASES = [
    *(
        ("llama", kind)
        for kind in ("plain", "rank_stabilised", "patterns", "head", "embedding", "dora")
    ),
    *(("gpt2", kind) for kind in ("plain", "patterns", "lora_bias")),
    ("qwen2", "bias"),
    ("gpt_neox", "plain"),
    ("llama_tied", "plain"),
]


@pytest.fixture
def base_folder(tmp_path, save_pool, family_configs):
    return lambda family: save_pool(tmp_path / family, family_configs[family], ("other",))["base"]


@pytest.mark.parametrize(("family", "kind"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_an_expert_is_what_peft_merges(family, kind, base_folder, tmp_path):
    peft = pytest.importorskip("peft")
    folder = base_folder(family)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder)
    settings = {
        "target_modules": TARGETS.get(family, ["q_proj", "up_proj"]),
        "r": 3,
        "lora_alpha": 7,
        "task_type": "CAUSAL_LM",
        **KINDS[kind],
    }
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(tmp_path / "adapter")
    pool = ModelPool.load(folder, {"x": tmp_path / "adapter"})
    theirs = named_tensors(adapted.merge_and_unload())
    ours = named_tensors(pool.model("x"))
    assert ours.keys() == theirs.keys()
    changed = 0
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor.detach(), atol=1e-6, rtol=1e-6)
        changed += not torch.equal(ours[name], named_tensors(pool.model("base"))[name])
    assert changed >= 4
    assert pool.adapters == ("x",)


QUERY = "model.layers.1.self_attn.q_proj"


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **settings) -> Path:
    pytest.importorskip("peft")
    folder.mkdir()
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": QUERY, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(plain))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def factors(width: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{QUERY}.lora_A.weight": torch.randn(2, width, generator=generator),
        f"{QUERY}.lora_B.weight": torch.randn(16, 2, generator=generator),
    }


def test_only_changed_tensors_take_memory_and_the_base_stays(tiny_pool_dir, tmp_path):
    folder = write_adapter(tmp_path / "x", factors())
    pool = ModelPool.load(tiny_pool_dir["base"], {"x": folder, "a": tiny_pool_dir["a"]})
    base, ours = named_tensors(pool.model("base")), named_tensors(pool.model("x"))
    own = [name for name in ours if ours[name].data_ptr() != base[name].data_ptr()]
    assert own == [f"{QUERY}.weight"]
    given = factors()
    wanted = 2.0 * given[f"{QUERY}.lora_B.weight"] @ given[f"{QUERY}.lora_A.weight"]
    torch.testing.assert_close(ours[own[0]] - base[own[0]], wanted)
    untouched = ModelPool.load(tiny_pool_dir["base"], {"a": tiny_pool_dir["a"]})
    assert all(torch.equal(base[n], t) for n, t in named_tensors(untouched.model("base")).items())
    assert pool.names == ("x", "a", "base")


def test_hash_covers_base_adapter_and_what_counts_of_its_settings(tiny_pool_dir, tmp_path):
    def hash_of(name, base="base", tensors=None, **settings):
        folder = write_adapter(tmp_path / name, tensors or factors(), **settings)
        return ModelPool.load(tiny_pool_dir[base], {"x": folder}).hashes["x"]

    first = hash_of("one")
    said = {"base_model_name_or_path": "elsewhere", "lora_dropout": 0.1}
    assert hash_of("two", **said, init_lora_weights="gaussian") == first
    other = factors()
    other[f"{QUERY}.lora_A.weight"][0, 0] += 1
    changed = [
        hash_of("alpha", lora_alpha=5),
        hash_of("stable", use_rslora=True),
        hash_of("weights", tensors=other),
        hash_of("base", base="b"),
    ]
    assert len({first, *changed}) == 5


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}, "PEFT cannot"),
        ({"peft_type": "SPELLS"}, "PEFT cannot read"),
        ({"target_modules": "nothing"}, "PEFT cannot read"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"lora_alpha": "many"}, "no adapter configuration"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised by pissa_niter_4, which changes"),
    ],
)
def test_other_kinds_are_refused_by_name(settings, wanted, tiny_pool_dir, tmp_path):
    folder = write_adapter(tmp_path / "x", factors(), **settings)
    with pytest.raises(InputError, match=wanted):
        ModelPool.load(tiny_pool_dir["base"], {"x": folder})


@pytest.mark.parametrize(
    ("tensors", "wanted"),
    [
        (factors(8), r"size mismatch for [\s\S]*2, 8\][\s\S]*2, 16\]"),
        ({"lm_head.weight": torch.zeros(32, 16)}, "changes lm_head.weight, which the base"),
        ({f"{QUERY}.lora_A.weight": torch.zeros(2, 16)}, "lora_B"),
        ({**factors(), f"{QUERY}.lora_magnitude_vector": torch.ones(16)}, "do not say where"),
        ({**factors(), "model.norm.weight": torch.full((16,), torch.nan)}, "NaN"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tensors, wanted, tiny_pool_dir, tmp_path):
    folder = write_adapter(tmp_path / "x", tensors)
    with pytest.raises(InputError, match=wanted):
        ModelPool.load(tiny_pool_dir["base"], {"x": folder})


def test_an_adapter_is_no_base_and_needs_its_weights(tiny_pool_dir, tmp_path):
    folder = write_adapter(tmp_path / "x", factors())
    with pytest.raises(InputError, match="is an adapter"):
        ModelPool.load(folder, {"a": tiny_pool_dir["a"]})
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        ModelPool.load(tiny_pool_dir["base"], {"x": folder})


def test_a_folder_with_a_whole_model_and_an_adapter_is_refused(tiny_pool_dir, tmp_path):
    folder = Path(shutil.copytree(tiny_pool_dir["a"], tmp_path / "a"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"both whole weights and an adapter's"):
        ModelPool.load(tiny_pool_dir["base"], {"a": folder})


def test_an_adapter_without_tensors_is_no_expert(tiny_pool_dir, tmp_path):
    folder = write_adapter(tmp_path / "x", {})
    with pytest.raises(InputError, match=r"'x': .* holds no tensors"):
        ModelPool.load(tiny_pool_dir["base"], {"x": folder})


def test_an_adapter_that_was_not_trained_is_named(tiny_pool_dir, tmp_path):
    tensors = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in factors().items()}
    pool = ModelPool.load(tiny_pool_dir["base"], {"x": write_adapter(tmp_path / "x", tensors)})
    assert pool.notes == ("expert 'x' has the same weights as base: it adds nothing to the pool",)


def test_without_peft_the_extra_is_named(tiny_pool_dir, tmp_path, monkeypatch):
    folder = write_adapter(tmp_path / "x", factors())
    monkeypatch.setattr(adapter, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"'x'[\s\S]*peft[\s\S]*pip install 'hm3rl\[adapters\]'"):
        ModelPool.load(tiny_pool_dir["base"], {"x": folder})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_low_rank_sum_is_rounded_once(dtype, stored, tiny_pool_dir, tmp_path):
    given = {name: tensor.to(stored) for name, tensor in factors().items()}
    folder = write_adapter(tmp_path / "x", given)
    state = torch.get_rng_state()
    pool = ModelPool.load(tiny_pool_dir["base"], {"x": folder}, dtype)
    assert torch.equal(state, torch.get_rng_state())
    down, up = (given[f"{QUERY}.lora_{factor}.weight"].float() for factor in "AB")
    before, after = (pool.tensors(name)[f"{QUERY}.weight"] for name in ("base", "x"))
    assert torch.equal(after, (before.float() + 2.0 * (up @ down)).to(dtype))


@pytest.mark.parametrize("kind", ["LoHaConfig", "IA3Config", "VeraConfig", "OFTConfig"])
@pytest.mark.filterwarnings("ignore")
def test_other_kinds_are_what_peft_merges(kind, tiny_pool_dir, tmp_path):
    peft = pytest.importorskip("peft")
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tiny_pool_dir["base"])
    more = {
        "LoHaConfig": {"init_weights": False},
        "IA3Config": {"feedforward_modules": [], "init_ia3_weights": False},
        "VeraConfig": {"r": 2},
        "OFTConfig": {"oft_block_size": 4, "init_weights": False},
    }
    config = getattr(peft, kind)(target_modules=["q_proj"], task_type="CAUSAL_LM", **more[kind])
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    pool = ModelPool.load(tiny_pool_dir["base"], {"x": tmp_path / "adapter"})
    theirs = named_tensors(adapted.merge_and_unload())
    changed = 0
    for name, tensor in pool.tensors("x").items():
        torch.testing.assert_close(tensor, theirs[name].detach())
        changed += not torch.equal(tensor, pool.tensors("base")[name])
    assert changed == 3
    assert pool.notes == ()

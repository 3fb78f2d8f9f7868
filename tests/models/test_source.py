"""What a folder claims against what its files hold: the weights decide, and that is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    MixtralConfig,
)
from transformers.modeling_utils import _get_resolved_checkpoint_files

from hm3rl.errors import InputError
from hm3rl.export.weights import write_weights
from hm3rl.models.fingerprint import folder_hash
from hm3rl.models.loading import find_weights, quiet_transformers
from hm3rl.models.pool import ModelPool
from hm3rl.models.source import read_source

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TOKENS = torch.arange(4, 16)[None]


@pytest.fixture
def folders(tiny_pool_dir, tmp_path) -> dict[str, Path]:
    """Private copies of a base and an expert with tied heads."""
    return {n: Path(shutil.copytree(tiny_pool_dir[n], tmp_path / n)) for n in ("base", "a")}


def load(folders: dict[str, Path], **settings) -> ModelPool:
    return ModelPool.load(folders["base"], {"a": folders["a"]}, **settings)


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    plain = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in plain.items() if v is not ...}))


def edit_weights(folder: Path, edit) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def own_head(folder: Path) -> torch.Tensor:
    """Store a head that differs from the embedding it is said to be tied to."""
    head = torch.randn(32, 16, generator=torch.Generator().manual_seed(3))
    edit_weights(folder, lambda t: t.update({HEAD: head}))
    return head


def refused(act, *wanted: str) -> InputError:
    with pytest.raises(InputError) as caught:
        act()
    for text in wanted:
        assert text in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_a_stored_head_that_differs_is_the_models_whatever_the_config_says(folders):
    head = own_head(folders["a"])
    tied = load({"base": folders["base"], "a": folders["base"]}).model("base")
    pool = load(folders)
    assert [pool.model(n).config.tie_word_embeddings for n in ("base", "a")] == [False, False]
    assert torch.equal(pool.model("a").lm_head.weight, head)
    assert not torch.equal(pool.model("a").model.embed_tokens.weight, head)
    assert torch.equal(pool.model("base")(TOKENS).logits, tied(TOKENS).logits)
    assert any("expert 'a': config.json says" in note and "untied" in note for note in pool.notes)
    assert any("base: the tied head is written out" in note for note in pool.notes)


def test_a_stored_head_that_is_the_embedding_stays_tied(folders):
    edit_weights(folders["a"], lambda t: t.update({HEAD: t[EMBEDDING].clone()}))
    pool = load(folders)
    assert pool.model("a").config.tie_word_embeddings and pool.notes == ()


def test_a_tied_model_may_be_stored_by_its_head_alone(folders):
    before = load(folders).model("a")(TOKENS).logits
    edit_weights(folders["a"], lambda t: t.update({HEAD: t.pop(EMBEDDING)}))
    assert torch.equal(load(folders).model("a")(TOKENS).logits, before)
    kept = load_file(folders["a"] / "model.safetensors")[HEAD]
    assert torch.equal(load(folders).tensors("a")[EMBEDDING], kept)


def rows(folder: Path) -> None:
    edit_weights(folder, lambda t: t.update({EMBEDDING: torch.zeros(40, 16)}))


FACTS = {
    "vocabulary": (rows, f"{EMBEDDING} has shape (40, 16)", '"vocab_size": 40'),
    "untied": (
        lambda f: edit_config(f, tie_word_embeddings=False),
        f"not tied to the embedding, and no {HEAD}",
        '"tie_word_embeddings": true',
    ),
    "fewer layers": (lambda f: edit_config(f, num_hidden_layers=2), "model.layers.2.", "config"),
    "more layers": (lambda f: edit_config(f, num_hidden_layers=4), "model.layers.3.", "config"),
    "biases": (lambda f: edit_config(f, attention_bias=True), "k_proj.bias", "config"),
}


@pytest.mark.parametrize(("edit", "named", "way"), FACTS.values(), ids=FACTS)
def test_other_facts_that_config_and_weights_state_must_agree(folders, edit, named, way):
    for folder in folders.values():
        edit(folder)
    edit_weights(folders["a"], lambda t: t["model.norm.weight"].fill_(float("nan")))
    assert way in refused(lambda: load(folders), "does not fit its config.json", named).remedy


def shard(folder: Path, scale: float = 1.0) -> None:
    """Write a folder's weights, scaled, as shards with an index, beside what is there."""
    tensors = {n: scale * t for n, t in load_file(folder / "model.safetensors").items()}
    names = sorted(tensors)
    halves = {"model-00001-of-00002": names[::2], "model-00002-of-00002": names[1::2]}
    where = {n: f"{file}.safetensors" for file, ns in halves.items() for n in ns}
    for file, ns in halves.items():
        save_file({n: tensors[n] for n in ns}, folder / f"{file}.safetensors")
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def lay_out(folder: Path, layout: str) -> None:
    if layout == "single":
        return
    shard(folder, 2.0)
    if layout == "shards":
        (folder / "model.safetensors").unlink()
    elif layout == "deleted shards":
        for file in folder.glob("model-*.safetensors"):
            file.unlink()
    elif layout == "named":
        edit_config(folder, transformers_weights="model.safetensors.index.json")


@pytest.mark.parametrize("layout", ["single", "shards", "stale index", "deleted shards", "named"])
def test_the_files_are_those_that_transformers_loads(folders, layout):
    """Hash, header scan and load see the same; the library's own function is the oracle."""
    folder = folders["a"]
    lay_out(folder, layout)
    theirs, _ = _get_resolved_checkpoint_files(
        str(folder),
        None,
        None,
        True,
        None,
        False,
        "model.safetensors.index.json" if layout == "named" else None,
    )
    files = find_weights("a", folder)
    assert [str(file) for file in files] == theirs
    assert read_source("a", folder).files == tuple(files)
    pool = load(folders)
    stored = {n: t for file in files for n, t in load_file(file).items()}
    assert all(torch.equal(t, pool.tensors("a")[n]) for n, t in stored.items())
    assert pool.hashes["a"] == folder_hash(folder, files)


def test_weights_replaced_beside_a_stale_index_are_other_weights(folders):
    shard(folders["a"])
    before = load(folders)
    edit_weights(folders["a"], lambda t: t["model.norm.weight"].add_(1.0))
    after = load(folders)
    assert before.hashes["a"] != after.hashes["a"]
    assert any("not the shard index beside it" in note for note in after.notes)


@pytest.mark.parametrize("name", ["../base/model.safetensors", "/etc/x.safetensors", "x/../../y"])
def test_an_index_may_not_point_outside_its_folder(folders, name):
    shard(folders["a"])
    (folders["a"] / "model.safetensors").unlink()
    file = folders["a"] / "model.safetensors.index.json"
    plain = json.loads(file.read_text())
    plain["weight_map"]["model.norm.weight"] = name
    file.write_text(json.dumps(plain))
    refused(lambda: load(folders), "expert 'a'", repr(name), "outside its folder")


DEEP = "[" * 100_000
BROKEN = {
    "index a list": ("model.safetensors.index.json", "[1]", "holds a list"),
    "index without metadata": (
        "model.safetensors.index.json",
        '{"weight_map": {"x": "y"}}',
        "no metadata",
    ),
    "index without map": ("model.safetensors.index.json", '{"metadata": {}}', "no weight_map"),
    "index of nothing": (
        "model.safetensors.index.json",
        '{"metadata": {}, "weight_map": {}}',
        "no w",
    ),
    "index too deep": ("model.safetensors.index.json", DEEP, "cannot be read"),
    "config a list": ("config.json", "[]", "holds a list"),
    "config no text": ("config.json", "\udcff", "cannot be read"),
    "config too deep": ("config.json", DEEP, "cannot be read"),
    "generation a list": ("generation_config.json", "[]", "holds a list"),
    "generation no JSON": ("generation_config.json", "{", "cannot be read"),
    "adapter a list": ("adapter_config.json", "[]", "holds a list"),
}


@pytest.mark.parametrize(("name", "text", "said"), BROKEN.values(), ids=BROKEN)
def test_malformed_json_of_a_model_folder_is_bad_input(folders, name, text, said):
    if name.startswith("adapter"):
        (folders["a"] / "model.safetensors").rename(folders["a"] / "adapter_model.safetensors")
    elif "index" in name:
        (folders["a"] / "model.safetensors").unlink()
    (folders["a"] / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(lambda: load(folders), "expert 'a'", name, said)


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_stored_frequencies_and_the_base_of_the_rope_must_agree(folders, theta):
    stored = theta ** -(torch.arange(2) / 2)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(
        folders["a"], lambda t: t.update({name: stored.half() if theta == 1e4 else stored})
    )
    if theta == 1e4:
        load(folders)
        return
    refused(lambda: load(folders), "has the base 10000", "about 1e+06", '"rope_theta"')


def test_a_mixture_of_experts_is_loaded_and_cannot_be_exported(save_pool, tmp_path):
    shape = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, eos_token_id=2)
    folders = save_pool(tmp_path, MixtralConfig(**shape, **heads, num_local_experts=2), ("a",))
    pool = load(folders)
    (note,) = pool.notes
    assert note.startswith("no checkpoint can be exported: a model of type 'mixtral'")
    with pytest.raises(InputError, match="'mixtral' cannot be written"):
        write_weights(pool.model("a"), tmp_path)


def test_other_layouts_are_named(folders):
    file = folders["a"] / "model.safetensors"
    file.rename(folders["a"] / "model.fp16.safetensors")
    refused(lambda: load(folders), "only the variant model.fp16.safetensors")
    (folders["a"] / "model.fp16.safetensors").rename(file)
    shutil.copy(file, folders["a"] / "shard-00000-model-00001-of-00001.safetensors")
    refused(lambda: load(folders), "distributed training checkpoint")


def test_a_compiled_models_names_are_refused_with_a_way_out(folders):
    def wrap(tensors):
        for name in list(tensors):
            tensors[f"_orig_mod.{name}"] = tensors.pop(name)

    edit_weights(folders["a"], wrap)
    refused(lambda: load(folders), "saved from a compiled model", "model._orig_mod.save_pretrained")


def test_buffers_that_old_gpt2_files_hold_are_passed_over(save_pool, family_configs, tmp_path):
    folders = save_pool(tmp_path, family_configs["gpt2"], ("a",))
    before = load(folders).model("a")(TOKENS).logits

    def as_it_was(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in range(4):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    edit_weights(folders["a"], as_it_was)
    assert torch.equal(load(folders).model("a")(TOKENS).logits, before)


def test_the_text_model_of_a_wrapper_is_taken_out_by_what_the_refusal_says(
    folders, tmp_path, monkeypatch
):
    text = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
    text |= dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, image_size=28)
    vision |= dict(num_attention_heads=2, patch_size=14)
    torch.manual_seed(0)
    wrapper = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    ).eval()
    folder = tmp_path / "wrapper"
    with quiet_transformers():
        wrapper.save_pretrained(folder)
    for file in folders["base"].glob("tokenizer*"):
        shutil.copy(file, folder)
    both = {"base": folder, "a": folder}
    error = refused(lambda: load(both), "'gemma3'", "text model 'gemma3_text'")
    monkeypatch.chdir(tmp_path)
    with quiet_transformers():
        exec(error.remedy.partition("\n")[2], {})
    taken = load({"base": tmp_path / "NEW_FOLDER", "a": tmp_path / "NEW_FOLDER"})
    assert torch.equal(taken.model("base")(TOKENS).logits, wrapper(TOKENS).logits)


@pytest.mark.parametrize("asked", ["flash_attention_2", "nonsense"])
def test_an_attention_that_cannot_run_names_the_line_to_delete(folders, asked):
    edit_config(folders["a"], attn_implementation=asked)
    error = refused(lambda: load(folders), f"asks for the attention '{asked}'")
    assert f'delete the line "attn_implementation": "{asked}"' in error.remedy
    edit_config(folders["a"], attn_implementation=...)
    load(folders)


def test_a_rope_spelled_twice_is_the_same_rope(folders, tiny_pool_dir):
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    edit_config(folders["base"], rope_parameters=linear)
    edit_config(folders["a"], rope_parameters={**linear, "type": "linear"})
    pool = load(folders)
    assert pool.mergeable == ("a",)
    assert pool.model("a").config.rope_parameters == pool.config.rope_parameters
    edit_config(folders["a"], rope_parameters={**linear, "factor": 4.0})
    error = refused(lambda: load(folders), "differ in rope_parameters")
    assert '"rope_parameters": {' in error.remedy and str(folders["a"]) in error.remedy


@pytest.mark.parametrize("positions", [64, 256])
def test_the_bases_longest_input_is_taken_where_rope_is_unscaled(folders, positions):
    edit_config(folders["a"], max_position_embeddings=positions)
    pool = load(folders)
    assert pool.model("a").config.max_position_embeddings == pool.max_positions == 128
    assert any(f"expert 'a' names {positions} positions" in note for note in pool.notes)


def test_a_longest_input_that_matters_is_refused_with_the_line_to_edit(folders):
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    for folder in folders.values():
        edit_config(folder, rope_parameters=dynamic)
    edit_config(folders["a"], max_position_embeddings=64)
    error = refused(lambda: load(folders), "max_position_embeddings: 64 against 128")
    assert '"max_position_embeddings": 128 in' in error.remedy


def test_differences_that_the_weights_settle_name_no_line(
    folders, save_pool, tiny_config, tmp_path
):
    wide = save_pool(tmp_path / "wide", tiny_config(hidden_size=32), ("a",))["a"]
    error = refused(lambda: load({**folders, "a": wide}), "differ in hidden_size")
    assert "write" not in error.remedy


def test_sources_with_the_same_weights_are_named(folders, tmp_path):
    again = Path(shutil.copytree(folders["a"], tmp_path / "again"))
    pool = ModelPool.load(folders["base"], {"a": folders["a"], "b": again, "c": folders["base"]})
    assert pool.notes == (
        "expert 'b' has the same weights as expert 'a': it adds nothing to the pool",
        "expert 'c' has the same weights as base: it adds nothing to the pool",
    )
    assert load({"base": folders["base"], "a": folders["base"]}).notes == ()


def test_models_are_loaded_as_they_are_stored(folders):
    with quiet_transformers():
        plain = AutoModelForCausalLM.from_pretrained(folders["a"], dtype=torch.float32)
    assert torch.equal(load(folders).model("a")(TOKENS).logits, plain(TOKENS).logits)

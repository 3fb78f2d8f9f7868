"""Loading pools: identity by content, and every kind of bad input told apart early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool


@pytest.fixture
def folders(tiny_pool_dir, tmp_path) -> dict[str, Path]:
    """Private copies of the tiny pool's folders, free to be spoilt."""
    return {
        name: Path(shutil.copytree(path, tmp_path / name)) for name, path in tiny_pool_dir.items()
    }


def load(folders: dict[str, Path], **settings) -> ModelPool:
    experts = {name: path for name, path in folders.items() if name != "base"}
    return ModelPool.load(folders["base"], experts, **settings)


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(folder: Path, edit) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def refuse(folders: dict[str, Path], *wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        load(folders)
    assert caught.value.remedy
    for text in wanted:
        assert text in str(caught.value)


def test_attributes(tiny_pool, tiny_pool_dir):
    assert tiny_pool.names == ("a", "b", "c", "base")
    assert (tiny_pool.num_layers, tiny_pool.hidden_size) == (3, 16)
    assert tiny_pool.tokenizer_donor == "base"
    assert tiny_pool.tokenizer("w3 w4").input_ids == [7, 8]
    assert tiny_pool.paths["a"] == tiny_pool_dir["a"]
    for name in tiny_pool.names:
        model = tiny_pool.model(name)
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_pool_cannot_be_changed(tiny_pool):
    with pytest.raises(AttributeError):
        tiny_pool.dtype = torch.float16
    with pytest.raises(TypeError):
        tiny_pool.hashes["a"] = "x"


def test_precision_is_as_asked_and_hash_does_not_depend_on_it(tiny_pool, folders):
    pool = load(folders, dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in pool.model("a").parameters())
    assert pool.hashes == tiny_pool.hashes


def test_hash_ignores_place_and_sharding_and_follows_every_weight(tiny_pool, folders):
    pool_model = tiny_pool.model("a")
    shutil.rmtree(folders["a"])
    pool_model.save_pretrained(folders["a"], max_shard_size="10KB")
    tiny_pool.tokenizer.save_pretrained(folders["a"])
    assert len(list(folders["a"].glob("*.safetensors"))) > 1
    shutil.copy(tiny_pool.paths["a"] / "tokenizer.json", folders["a"])
    assert load(folders).hashes == tiny_pool.hashes

    edit_weights(folders["b"], lambda t: t["model.norm.weight"].__setitem__(0, 0.5))
    changed = load(folders).hashes
    assert changed["b"] != tiny_pool.hashes["b"]
    assert changed["c"] == tiny_pool.hashes["c"]


def test_hash_follows_what_ends_a_generation(tiny_pool, folders):
    path = folders["a"] / "generation_config.json"
    named = json.loads(path.read_text())
    for file in ("a", "b"):
        (folders[file] / path.name).write_text(json.dumps({**named, "do_sample": True}))
    assert load(folders).hashes == tiny_pool.hashes
    path.write_text(json.dumps({**named, "eos_token_id": [2, 9]}))
    hashes = load(folders).hashes
    assert hashes["a"] != tiny_pool.hashes["a"] and hashes["b"] == tiny_pool.hashes["b"]


def test_missing_folder(folders):
    refuse(
        {**folders, "a": folders["a"] / "nowhere"}, "expert 'a'", "there is no folder", "nowhere"
    )


def test_folder_without_config(folders):
    (folders["base"] / "config.json").unlink()
    refuse(folders, "base:", "has no config.json")


def test_config_that_is_no_json(folders):
    (folders["b"] / "config.json").write_text("{")
    refuse(folders, "expert 'b'", "config.json cannot be read")


def test_pickled_weights_only(folders):
    (folders["b"] / "model.safetensors").rename(folders["b"] / "pytorch_model.bin")
    refuse(folders, "expert 'b'", "only pickled weights (pytorch_model.bin)", "save_pretrained")


def test_no_weights(folders):
    (folders["b"] / "model.safetensors").unlink()
    refuse(folders, "expert 'b'", "has no weights")


def test_missing_shard(folders, tiny_pool):
    shutil.rmtree(folders["a"])
    tiny_pool.model("a").save_pretrained(folders["a"], max_shard_size="10KB")
    sorted(folders["a"].glob("*.safetensors"))[1].unlink()
    refuse(folders, "expert 'a'", "shards", "finish the download")


@pytest.mark.parametrize("keep", [3, 100, -500])
def test_corrupt_file(folders, keep):
    file = folders["c"] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refuse(folders, "expert 'c'", "is corrupt", "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folders, value):
    name = "model.layers.1.mlp.down_proj.weight"
    edit_weights(folders["b"], lambda t: t[name].__setitem__((0, 0), value))
    refuse(folders, "expert 'b'", name, "NaN or infinite")


def test_missing_tensor(folders):
    edit_weights(folders["b"], lambda t: t.pop("model.norm.weight"))
    refuse(folders, "expert 'b'", "1 missing tensors, e.g. model.norm.weight")


def test_superfluous_tensor(folders):
    edit_weights(folders["b"], lambda t: t.update({"model.extra.weight": torch.zeros(2)}))
    refuse(folders, "expert 'b'", "1 unexpected tensors, e.g. model.extra.weight")


def test_tensor_of_the_wrong_shape(folders):
    edit_weights(folders["b"], lambda t: t.update({"model.norm.weight": torch.zeros(2)}))
    refuse(folders, "expert 'b'", "model.norm.weight has shape (2,), config.json asks for (16,)")


def test_hidden_size_mismatch_names_both_sides(folders, tmp_path, save_pool, tiny_config):
    wide = save_pool(tmp_path / "wide", tiny_config(hidden_size=32), ("a",))
    refuse({**folders, "a": wide["a"]}, "expert 'a' and base differ in hidden_size: 32 against 16")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps: 0.001 against 1e-06"),
        ({"rope_theta": 5e5, "rope_parameters": None}, "rope_parameters"),
        ({"hidden_act": "gelu"}, "hidden_act: gelu against silu"),
    ],
)
def test_differences_that_no_common_config_can_express(folders, change, wanted):
    edit_config(folders["b"], **change)
    refuse(folders, "expert 'b' and base differ in", wanted)


def test_compatibility_is_checked_before_any_weights_are_read(folders):
    edit_weights(folders["a"], lambda t: t["model.norm.weight"].fill_(float("nan")))
    edit_config(folders["c"], hidden_act="gelu")
    refuse(folders, "expert 'c' and base differ in hidden_act")


def test_quantised_source(folders):
    edit_config(folders["a"], quantization_config={"quant_method": "bitsandbytes"})
    refuse(folders, "expert 'a'", "quantised")


def test_different_vocabularies(folders):
    file = folders["b"] / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"w5"', '"x5"'))
    refuse(folders, "expert 'b' and base give token 'w5' different ids: None against 9")


def test_more_tokens_than_rows(folders):
    for folder in folders.values():
        file = folder / "tokenizer.json"
        plain = json.loads(file.read_text())
        plain["model"]["vocab"]["extra"] = 32
        file.write_text(json.dumps(plain))
    refuse(folders, "33 tokens", "32 rows")


def test_tokenizer_comes_from_the_first_source_that_has_one(folders):
    for name in ("base", "a"):
        for file in (*folders[name].glob("tokenizer*"), *folders[name].glob("*.jinja")):
            file.unlink()
    assert load(folders).tokenizer_donor == "b"


def test_no_tokenizer_at_all(folders):
    for folder in folders.values():
        for file in folder.glob("tokenizer*"):
            file.unlink()
    refuse(folders, "no source has a tokenizer")


@pytest.mark.parametrize("name", ["base", "merged@12345678", "my model", "a|b", ""])
def test_names_that_cannot_be(folders, name):
    with pytest.raises(InputError, match="cannot name an expert"):
        ModelPool.load(folders["base"], {name: folders["a"]})


def test_no_expert(folders):
    with pytest.raises(InputError, match="no expert"):
        ModelPool.load(folders["base"], {})


def test_relative_paths_work(folders, monkeypatch):
    monkeypatch.chdir(folders["base"].parent)
    assert ModelPool.load("base", {"a": "a"}).paths["a"] == folders["a"]


def test_unknown_zoo_model():
    with pytest.raises(InputError, match=r"the zoo has no model 'poetry'"):
        ModelPool.load("zoo:poetry", {"a": "zoo:poetry"})

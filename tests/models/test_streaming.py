"""Sources read from their files: the same tensors as a resident pool, and the same refusals."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from hm3rl.errors import InputError
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import named_tensors
from hm3rl.models.streaming import StreamedSources
from tests.models.test_adapter import factors, write_adapter


def test_tensors_are_those_of_a_resident_pool(family_pool):
    experts = {name: family_pool.paths[name] for name in family_pool.expert_names}
    sources = StreamedSources.open(family_pool.paths["base"], experts)
    assert sources.num_layers == family_pool.num_layers
    for name in ("base", "a", "b"):
        resident = named_tensors(family_pool.model(name))
        streamed = sources.tensors(name)
        assert list(streamed) == list(resident)
        assert all(torch.equal(streamed[key], tensor) for key, tensor in resident.items())


def test_shards_and_adapters(tiny_pool, tiny_pool_dir, tmp_path):
    tiny_pool.model("a").save_pretrained(tmp_path / "a", max_shard_size="10KB")
    adapter = write_adapter(tmp_path / "x", factors())
    experts = {"a": tmp_path / "a", "x": adapter}
    sources = StreamedSources.open(tiny_pool_dir["base"], experts)
    pool = ModelPool.load(tiny_pool_dir["base"], experts)
    for name in experts:
        resident = named_tensors(pool.model(name))
        assert all(torch.equal(sources.tensors(name)[key], t) for key, t in resident.items())
        assert len(sources.tensors(name)) == len(resident)


def test_a_tied_head_that_is_stored_all_the_same_is_left_out(tiny_pool_dir, tmp_path, save_pool):
    folder = save_pool(tmp_path, _config(tiny_pool_dir), ("a",))["a"]
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    sources = StreamedSources.open(tiny_pool_dir["base"], {"a": folder})
    assert "lm_head.weight" not in sources.tensors("a")
    assert "model.embed_tokens.weight" in sources.tensors("a")


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (lambda t: t.pop("model.norm.weight"), r"missing tensors, e.g. model.norm.weight"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(2)}), r"shape \(2,\), config.json"),
        (lambda t: t.update({"extra": torch.zeros(2)}), r"unexpected tensors, e.g. extra"),
    ],
)
def test_files_that_do_not_fit_are_refused(edit, wanted, tiny_pool_dir, tmp_path, save_pool):
    folder = save_pool(tmp_path, _config(tiny_pool_dir), ("a",))["a"]
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=wanted):
        StreamedSources.open(tiny_pool_dir["base"], {"a": folder})


def test_other_vocabularies_are_refused(tiny_pool_dir, tmp_path, save_pool, tiny_config):
    longer = save_pool(tmp_path, tiny_config(vocab_size=40), ("a",))["a"]
    with pytest.raises(InputError, match="cannot be merged from their files"):
        StreamedSources.open(tiny_pool_dir["base"], {"a": longer})


def _config(folders):
    return AutoConfig.from_pretrained(folders["base"])

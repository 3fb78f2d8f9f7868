"""`hm3rl match`: a checked folder of the same function, its units in another model's order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hm3rl import api
from hm3rl.errors import InputError
from hm3rl.export.record import verify_record
from hm3rl.models.pool import ModelPool
from tests.commands import assert_refused, call
from tests.matching.planted import write_planted


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """`zoo:code` with its units in a random order, stored in float16."""
    return write_planted("code", tmp_path / "planted", torch.float16)


def test_a_planted_order_is_undone_on_disk(planted: Path, tmp_path: Path):
    done = call("match", "zoo:math", planted, tmp_path / "model", "--gamma", "0.3")
    assert done.exit_code == 0, done.output
    assert "mean similarity of units 0.8" in done.output and "logits within" in done.output
    assert verify_record(tmp_path / "model")["passed"]
    ours = load_file(tmp_path / "model" / "model.safetensors")
    pool = ModelPool.load("zoo:base", {"code": "zoo:code"}, torch.float16)
    wanted = pool.tensors("code")
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in wanted.items())
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["dtype"] == "float16" and config["tie_word_embeddings"] is True
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for part in ("- planted\n", "matched to: hm3rl-zoo-math", "γ = 0.3", "--gamma 0.3", "2403.017"):
        assert part in card
    assert "base_model_relation" not in card
    note = yaml.safe_load((tmp_path / "model" / "match.yaml").read_text())
    assert note["units"]["similarity"] > note["units"]["similarity_before"]
    assert note["units"]["tokens"] > 1000
    assert note["sources"]["matched_to"] == {"origin": "zoo:math", "hash": note_hash("math")}


def note_hash(name: str) -> str:
    return ModelPool.load("zoo:base", {"x": f"zoo:{name}"}).hashes["x"]


def test_weights_alone_need_no_texts(tmp_path: Path):
    report = api.match("zoo:math", "zoo:code", tmp_path / "model", gamma=1.0)
    assert report.matching.is_identity and report.logit_error == 0
    assert "no other order of its units is better" in str(report)
    note = yaml.safe_load((tmp_path / "model" / "match.yaml").read_text())
    assert note["units"]["tokens"] == 0 and note["units"]["calibration"] is None


def test_what_cannot_be_matched_is_named_and_leaves_nothing(
    tiny_pool_dir, save_pool, tiny_config, family_configs, tmp_path: Path
):
    a, to = tiny_pool_dir["a"], tmp_path / "model"
    wide = save_pool(tmp_path / "wide", tiny_config(hidden_size=32), ("a",))["a"]
    assert_refused(call("match", a, wide, to), "differ in hidden_size: 32 against 16", str(wide))
    deep = save_pool(tmp_path / "deep", tiny_config(num_hidden_layers=2), ("a",))["a"]
    assert_refused(call("match", a, deep, to), "differ in num_hidden_layers: 2 against 3")
    phi = save_pool(tmp_path / "phi", family_configs["phi3"], ("a",))
    assert_refused(call("match", phi["base"], phi["a"], to), "'phi3' cannot be matched", "q_proj")
    assert_refused(call("match", a, tmp_path / "nowhere", to), "nowhere")
    assert_refused(call("match", a, tiny_pool_dir["b"], to, "--gamma", "2"), "gamma 2")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).write_text("{}")
    assert_refused(call("match", a, adapter, to), "is an adapter")
    assert_refused(call("match", a, tiny_pool_dir["b"], wide), "exists already")
    assert not to.exists()


def test_another_vocabulary_is_refused_or_mapped_onto_that_of_the_matched_model(
    tiny_pool_dir, tmp_path: Path
):
    other = Path(shutil.copytree(tiny_pool_dir["a"], tmp_path / "other"))
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"w5"', '"x5"'))
    with pytest.raises(InputError, match="different ids"):
        api.match(other, tiny_pool_dir["b"], tmp_path / "model", 1.0)
    report = api.match(other, tiny_pool_dir["b"], tmp_path / "model", 1.0, vocabulary="map")
    assert "rows arranged by token" in report.notes[0]
    ours = load_file(tmp_path / "model" / "model.safetensors")
    before = load_file(tiny_pool_dir["b"] / "model.safetensors")
    name = "model.embed_tokens.weight"
    order = report.matching.orders["stream"]
    assert torch.equal(ours[name], before[name][:, order])

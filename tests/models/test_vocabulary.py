"""Sources of different vocabularies, padding and heads come to one, or are refused with numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_yaml import to_mergekit
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet


@pytest.fixture
def folders(tiny_pool_dir, tmp_path) -> dict[str, Path]:
    return {
        name: Path(shutil.copytree(tiny_pool_dir[name], tmp_path / name)) for name in ("base", "a")
    }


def load(folders: dict[str, Path], **settings) -> ModelPool:
    return ModelPool.load(folders["base"], {"a": folders["a"]}, **settings)


def edit_json(file: Path, edit) -> None:
    plain = json.loads(file.read_text())
    edit(plain)
    file.write_text(json.dumps(plain))


def swap_and_replace(folder: Path) -> None:
    """Exchange the ids of w5 and w6, and know x7 instead of w7; the weights stay as they are."""

    def edit(plain):
        words = plain["model"]["vocab"]
        words["w5"], words["w6"] = words["w6"], words["w5"]
        words["x7"] = words.pop("w7")

    edit_json(folder / "tokenizer.json", edit)


def resize(folder: Path, rows: int, tied: bool | None = None) -> None:
    """Give a model other numbers of embedding rows, new rows all 9; or another kind of head."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    old = tensors["model.embed_tokens.weight"]
    new = torch.full((rows, old.shape[1]), 9.0)
    new[: min(rows, len(old))] = old[:rows]
    tensors["model.embed_tokens.weight"] = new
    if tied is False:
        tensors["lm_head.weight"] = 2 * new
        edit_json(folder / "config.json", lambda c: c.update(tie_word_embeddings=False))
    save_file(tensors, file, metadata={"format": "pt"})
    edit_json(folder / "config.json", lambda c: c.update(vocab_size=rows))


def embedding(pool: ModelPool, name: str) -> torch.Tensor:
    return pool.model(name).get_input_embeddings().weight


def test_other_ids_are_refused_with_both_numbers(folders):
    swap_and_replace(folders["a"])
    with pytest.raises(InputError, match=r"'w5' different ids: 10 against 9 \(32 against 32 tok"):
        load(folders)


def test_rows_are_mapped_by_token_and_missing_tokens_take_the_donors_row(folders, tiny_pool):
    swap_and_replace(folders["a"])
    pool = load(folders, vocabulary="map")
    before, base = embedding(tiny_pool, "a"), embedding(tiny_pool, "base")
    expected = before.clone()
    expected[9], expected[10], expected[11] = before[10], before[9], base[11]
    assert torch.equal(embedding(pool, "a"), expected)
    assert pool.model("a").get_output_embeddings().weight is embedding(pool, "a")
    assert "31 of 32 tokens have rows of its own, 1 take" in pool.notes[0]
    assert "1 of its tokens are left out" in pool.notes[0]
    assert pool.hashes["a"] != tiny_pool.hashes["a"]
    assert pool.hashes["base"] == tiny_pool.hashes["base"]


def test_a_mapped_model_computes_what_it_computed_before(folders, tiny_pool):
    """Token ids change; logits of the same tokens do not."""
    swap_and_replace(folders["a"])
    pool = load(folders, vocabulary="map")
    theirs = torch.tensor([[4, 9, 8, 10, 13]])
    ours = torch.tensor([[4, 10, 8, 9, 13]])
    shuffled = list(range(32))
    shuffled[9], shuffled[10] = 10, 9
    known = [token for token in range(32) if token != 11]
    ours_logits = pool.model("a")(ours).logits[..., shuffled][..., known]
    assert torch.allclose(tiny_pool.model("a")(theirs).logits[..., known], ours_logits, atol=1e-6)


def test_another_donor_can_be_declared(folders):
    swap_and_replace(folders["a"])
    pool = load(folders, vocabulary="map", tokenizer="a")
    assert pool.tokenizer_donor == "a"
    assert pool.tokenizer.get_vocab()["x7"] == 11
    assert "base: rows arranged" in pool.notes[0]
    with pytest.raises(InputError, match=r"'z', which shall lend"):
        load(folders, tokenizer="z")


@pytest.mark.parametrize(("rows", "said"), [(40, "last 8 spare rows are left out"), (33, "last 1")])
def test_spare_rows_are_cut_and_that_is_said(folders, tiny_pool, rows, said):
    resize(folders["a"], rows)
    pool = load(folders)
    assert torch.equal(embedding(pool, "a"), embedding(tiny_pool, "a"))
    assert pool.model("a").config.vocab_size == 32
    assert said in pool.notes[0]
    assert pool.changed == ("a",)
    assert pool.hashes["a"] != tiny_pool.hashes["a"]
    with pytest.raises(InputError, match="the vocabulary or head of a was changed"):
        to_mergekit(Candidate.whole("a", 3), pool)


def test_spare_rows_of_the_donor_are_added(folders):
    resize(folders["base"], 40)
    pool = load(folders)
    assert torch.equal(embedding(pool, "a")[32:], embedding(pool, "base")[32:])
    assert pool.model("a").get_output_embeddings().out_features == 40
    assert pool.model("a")(torch.tensor([[4, 5]])).logits.shape[-1] == 40
    assert "last 8 spare rows of base are added" in pool.notes[0]


def test_the_hash_of_a_source_with_rows_of_the_donor_covers_the_donors_content(folders):
    resize(folders["base"], 40)
    first = load(folders)
    file = folders["base"] / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][35] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    second = load(folders)
    assert not torch.equal(embedding(first, "a"), embedding(second, "a"))
    assert first.hashes["a"] != second.hashes["a"]


def test_too_few_rows_for_the_tokens_are_refused(folders):
    resize(folders["a"], 30)
    for file in (folders["a"]).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="'a' has 30 embedding rows, too few for the 32 tokens"):
        load(folders)


@pytest.mark.parametrize("untied", ["base", "a"])
def test_tied_and_untied_sources_are_merged_and_stitched_with_heads(folders, tiny_pool, untied):
    resize(folders[untied], 32, tied=False)
    pool = load(folders)
    tied = {"base": "a", "a": "base"}[untied]
    assert [pool.model(n).config.tie_word_embeddings for n in pool.names] == [False, False]
    head = pool.model(tied).get_output_embeddings().weight
    assert torch.equal(head, embedding(tiny_pool, tied))
    assert head.data_ptr() == embedding(pool, tied).data_ptr()
    assert pool.hashes[tied] != tiny_pool.hashes[tied]
    members = MemberSet(pool)
    merged = members.model(members.add(MergeRecipe.of("task_arithmetic", {"a": 0.5})))
    heads = [pool.model(n).get_output_embeddings().weight for n in ("base", "a")]
    assert torch.allclose(merged.get_output_embeddings().weight, sum(heads) / 2, atol=1e-6)


@pytest.mark.parametrize("shards", [False, True])
def test_sources_may_be_sharded_and_of_either_head(folders, tmp_path, shards):
    resize(folders["base"], 40, tied=False)
    whole = load(folders)
    if shards:
        model = AutoModelForCausalLM.from_pretrained(folders["base"], dtype=torch.float32)
        (folders["base"] / "model.safetensors").unlink()
        model.save_pretrained(folders["base"], max_shard_size="8KB")
        assert len(list(folders["base"].glob("*.safetensors"))) > 1
    tokens = torch.tensor([[4, 5, 6]])
    candidate = Candidate(LayerPath.parse("base | a[0] + base[1:3]"))
    expected = assemble(candidate, MemberSet(whole))(tokens).logits
    assert torch.equal(assemble(candidate, MemberSet(load(folders)))(tokens).logits, expected)


def test_unknown_policy(folders):
    with pytest.raises(InputError, match=r"unknown pool.vocabulary 'cut'"):
        load(folders, vocabulary="cut")

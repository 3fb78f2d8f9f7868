"""Exported folders load plainly, compute the same, and say where they come from."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hm3rl.errors import InputError, IntegrityError
from hm3rl.evaluation.costs import Minimised
from hm3rl.export import checkpoint, weights
from hm3rl.export.checkpoint import export_candidate
from hm3rl.export.record import verify_record
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

RECIPE = MergeRecipe.of("dare_ties", {"a": 0.6, "b": 0.4}, density=0.7, seed=3)
STITCHED = Candidate.of(
    LayerPath.parse(f"a | a[0:2] + {RECIPE.name}[2] + b[1] + b[1] + c[0]"), [RECIPE]
)
TOKENS = torch.randint(3, 32, (2, 20), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Scores:
    """What a card needs of an evaluation."""

    split: str
    scores: np.ndarray
    standard_errors: np.ndarray
    ok: bool = True
    secondary: dict[str, dict[str, float]] | None = None


@pytest.fixture
def members(tiny_pool) -> MemberSet:
    return MemberSet(tiny_pool)


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.mark.parametrize(
    "candidate",
    [
        STITCHED,
        Candidate.whole("b", 3),
        Candidate.whole(RECIPE, 3),
        Candidate(LayerPath.parse("c | b[2]")),
        Candidate(LayerPath.parse("a | b[0:3]"), head="c"),
    ],
    ids=["stitched", "source", "merged", "one layer", "untied head"],
)
def test_export_loads_plainly_and_computes_the_same(candidate, members, tmp_path):
    report = export_candidate(candidate, members, tmp_path / "model")
    model, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = assemble(candidate, members)(TOKENS).logits
    limit = 1e-5 * expected.abs().max().item()
    assert (model(TOKENS).logits - expected).abs().max().item() <= limit
    assert report.check.logit_error <= 1e-5
    assert report.weight_bytes == sum(t.nbytes for t in model.parameters())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("w1 w2").input_ids == members.pool.tokenizer("w1 w2").input_ids
    assert tokenizer.chat_template == members.pool.tokenizer.chat_template


def test_folder_is_complete_and_nothing_hidden_is_left(members, tmp_path):
    export_candidate(STITCHED, members, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "recipe.yaml",
        "README.md",
    }
    assert "model.safetensors.index.json" not in names
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1


def test_recipe_file_rebuilds_the_candidate(members, tmp_path):
    report = export_candidate(STITCHED, members, tmp_path / "model", command="hm3rl export R M1")
    plain = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    again = Candidate.from_dict(plain)
    assert again == STITCHED
    assert plain["key"] == report.key == again.key(members.pool.hashes)
    assert plain["sources"]["c"]["hash"] == members.pool.hashes["c"]
    assert plain["donor"] == "base"
    assert plain["command"] == "hm3rl export R M1"


def test_card_names_sources_path_scores_and_check(members, tmp_path):
    searched = Scores("search", np.array([0.625, 0.5]), np.array([0.05, 0.06]))
    beside = {"translation": {"chrf": 0.75}}
    tested = Scores("test", np.array([0.5, 0.25]), np.array([0.03, 0.04]), secondary=beside)
    export_candidate(
        STITCHED,
        members,
        tmp_path / "model",
        evaluations=[searched, tested],
        objectives=["translation", "math"],
        minimised={"math": Minimised(8.0, "layers")},
        seed=7,
        command="hm3rl search seed=7",
    )
    card = (tmp_path / "model" / "README.md").read_text()
    front = front_matter(tmp_path / "model")
    assert front["base_model"] == ["a", "b", "c", "base"]
    assert "merge" in front["tags"]
    assert "license" not in front
    assert f"`{STITCHED.path}`" in card
    assert "| 0 to 1 | a | 0 to 1 |" in card
    assert "| 5 | c | 0 |" in card
    assert "| task | search split | test split |" in card
    assert "| translation | 0.625 ± 0.050 | 0.500 ± 0.030 |" in card
    assert "| math ↓ | 4.000 ± 0.480 | 6.000 ± 0.320 |" in card  # what is minimised, as a cost
    assert "| translation: chrf | – | 0.750 |" in card  # it decided nothing, so on test only
    assert "search seed: 7" in card
    assert "hm3rl search seed=7" in card
    assert "Reload check" in card


def test_licence_is_the_sources_if_they_agree(tiny_pool_dir, tmp_path, save_pool, tiny_config):
    folders = save_pool(tmp_path / "pool", tiny_config(), ("a", "b"))
    for folder in folders.values():
        (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    members = MemberSet(ModelPool.load(folders["base"], {"a": folders["a"], "b": folders["b"]}))
    export_candidate(Candidate.whole("a", 3), members, tmp_path / "one")
    assert front_matter(tmp_path / "one")["license"] == "apache-2.0"
    (folders["b"] / "README.md").write_text("---\nlicense: mit\n---\n")
    both = Candidate(LayerPath.parse("a | a[0] + b[1:3]"))
    export_candidate(both, members, tmp_path / "two")
    assert "license" not in front_matter(tmp_path / "two")
    assert "a: apache-2.0; b: mit" in (tmp_path / "two" / "README.md").read_text()
    (folders["b"] / "README.md").unlink()
    export_candidate(both, members, tmp_path / "three")
    assert "a: apache-2.0; b: not declared" in (tmp_path / "three" / "README.md").read_text()


def test_shards_have_a_complete_index(members, tmp_path):
    report = export_candidate(STITCHED, members, tmp_path / "model", shard_bytes=8_000)
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == report.weight_bytes
    found = {}
    for file in files:
        assert file.stat().st_size < 8_000 + 4_000
        with safe_open(file, framework="pt") as handle:
            found.update(dict.fromkeys(handle.keys(), file.name))
    assert found == index["weight_map"]


def test_repeated_layers_are_written_in_full_and_a_tied_head_is_not(members, tmp_path):
    export_candidate(STITCHED, members, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as handle:
        names = set(handle.keys())
        repeated = [handle.get_tensor(f"model.layers.{i}.mlp.up_proj.weight") for i in (3, 4)]
    assert torch.equal(*repeated)
    assert "lm_head.weight" not in names
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"]


def test_untied_head_is_written(members, tmp_path):
    candidate = Candidate(LayerPath.parse("a | b[0:3]"), head="c")
    export_candidate(candidate, members, tmp_path / "model")
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as handle:
        head = handle.get_tensor("lm_head.weight")
    assert torch.equal(head, members.model("c").lm_head.weight)


def test_bf16_pools_export_bf16(tiny_pool_dir, tmp_path):
    experts = {"a": tiny_pool_dir["a"], "b": tiny_pool_dir["b"]}
    members = MemberSet(ModelPool.load(tiny_pool_dir["base"], experts, torch.bfloat16))
    candidate = Candidate(LayerPath.parse("a | a[0:2] + b[2]"))
    export_candidate(candidate, members, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.dtype == torch.bfloat16


def test_another_precision_is_rounded_once_and_never_keeps_the_searchs_scores(members, tmp_path):
    before = members.model("a").model.norm.weight.clone()
    searched = Scores("search", np.array([0.5]), np.array([0.03]))
    asked = []

    def rescore(folder: Path) -> list[Scores]:
        asked.append(AutoModelForCausalLM.from_pretrained(folder).dtype)
        return [Scores("search", np.array([0.4375]), np.array([0.03]))]

    settings = {"evaluations": [searched], "objectives": ["math"], "dtype": torch.bfloat16}
    export_candidate(STITCHED, members, tmp_path / "unscored", **settings)
    assert "Not scored." in (tmp_path / "unscored" / "README.md").read_text()
    export_candidate(STITCHED, members, tmp_path / "scored", rescore=rescore, **settings)
    assert asked == [torch.bfloat16]
    card = (tmp_path / "scored" / "README.md").read_text()
    assert "| math | 0.438 ± 0.030 |" in card and "precision: bfloat16" in card
    with safe_open(tmp_path / "scored" / "model.safetensors", framework="pt") as handle:
        assert torch.equal(handle.get_tensor("model.norm.weight"), before.bfloat16())
    assert torch.equal(members.model("a").model.norm.weight, before)


def test_existing_folder_is_refused_and_untouched(members, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists already"):
        export_candidate(STITCHED, members, tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]


def test_folders_above_the_target_are_made(members, tmp_path):
    report = export_candidate(STITCHED, members, tmp_path / "deep" / "er" / "model")
    assert (report.folder / "config.json").is_file()


def test_wrong_weights_on_disk_fail_loudly_and_are_kept(members, tmp_path, monkeypatch):
    def write_other_weights(model, folder, shard_bytes):
        return write(members.model("b"), folder, shard_bytes)

    write = checkpoint.write_weights
    monkeypatch.setattr(checkpoint, "write_weights", write_other_weights)
    with pytest.raises(IntegrityError, match="does not compute what the candidate computes"):
        export_candidate(Candidate.whole("a", 3), members, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    (kept,) = tmp_path.iterdir()
    assert (kept / "model.safetensors").is_file()


def test_lost_tensors_fail_loudly(members, tmp_path, monkeypatch):
    shorter = Candidate(LayerPath.parse("a | a[0:2]"))

    def write_too_few(model, folder, shard_bytes):
        return write(assemble(shorter, members), folder, shard_bytes)

    write = checkpoint.write_weights
    monkeypatch.setattr(checkpoint, "write_weights", write_too_few)
    with pytest.raises(IntegrityError, match="missing_keys"):
        export_candidate(Candidate.whole("a", 3), members, tmp_path / "model")


def test_interruption_leaves_nothing_behind(members, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "check_reload", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_candidate(STITCHED, members, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_exported_model_can_be_a_source_again(members, tmp_path):
    export_candidate(Candidate.whole(RECIPE, 3), members, tmp_path / "model")
    pool = members.pool
    again = ModelPool.load(pool.paths["base"], {"merged-before": tmp_path / "model"})
    ours = again.model("merged-before")(TOKENS).logits
    assert torch.equal(ours, members.model(RECIPE.name)(TOKENS).logits)


def test_all_chat_templates_go_with_the_tokenizer(tiny_pool_dir, tmp_path):
    folders = {
        n: Path(shutil.copytree(tiny_pool_dir[n], tmp_path / "pool" / n)) for n in ("base", "a")
    }
    tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(folders["base"])
    assert (folders["base"] / "additional_chat_templates" / "tool_use.jinja").is_file()
    members = MemberSet(ModelPool.load(folders["base"], {"a": folders["a"]}))
    export_candidate(Candidate.whole("a", 3), members, tmp_path / "model")
    written = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert written.chat_template == tokenizer.chat_template
    template = "additional_chat_templates/tool_use.jinja"
    assert template in verify_record(tmp_path / "model")["files"]
    (tmp_path / "model" / template).write_text("other")
    with pytest.raises(InputError, match=f"{template} .* was changed"):
        verify_record(tmp_path / "model")


@pytest.mark.parametrize("owner", ["base", "a"])
def test_a_head_that_the_config_called_tied_is_written(tiny_pool_dir, tmp_path, owner):
    folders = {
        n: Path(shutil.copytree(tiny_pool_dir[n], tmp_path / "pool" / n)) for n in ("base", "a")
    }
    file = folders[owner] / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = torch.randn(32, 16, generator=torch.Generator().manual_seed(3))
    save_file(tensors, file, metadata={"format": "pt"})
    members = MemberSet(ModelPool.load(folders["base"], {"a": folders["a"]}))
    recipe = MergeRecipe.of("task_arithmetic", {"a": 0.5})
    for number, candidate in enumerate((Candidate.whole(owner, 3), Candidate.whole(recipe, 3))):
        folder = tmp_path / f"model-{number}"
        export_candidate(candidate, members, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert model.config.tie_word_embeddings is False
        assert torch.equal(model(TOKENS).logits, assemble(candidate, members)(TOKENS).logits)
        written = load_file(folder / "model.safetensors")["lm_head.weight"]
        assert not torch.equal(written, model.get_input_embeddings().weight)
    assert torch.equal(
        load_file(tmp_path / "model-0" / "model.safetensors")["lm_head.weight"],
        tensors["lm_head.weight"],
    )


def test_names_that_no_checkpoint_of_the_type_has_fail_the_check(
    save_pool, family_configs, tmp_path, monkeypatch
):
    folders = save_pool(tmp_path / "pool", family_configs["gpt_neox"], ("a",))
    members = MemberSet(ModelPool.load(folders["base"], {"a": folders["a"]}))
    export_candidate(Candidate.whole("a", 4), members, tmp_path / "model")
    keys = [set(load_file(f / "model.safetensors")) for f in (folders["a"], tmp_path / "model")]
    assert keys[0] == keys[1] and "embed_out.weight" in keys[1]
    monkeypatch.setattr(weights, "saved_names", lambda model: {n: n for n in model.state_dict()})
    with pytest.raises(IntegrityError, match=r"lacks the tensor embed_out.weight"):
        export_candidate(Candidate.whole("a", 4), members, tmp_path / "again")

"""Every family: re-stacked, exported, reloaded, with prompts longer than the sliding window."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from hm3rl.errors import InputError, IntegrityError
from hm3rl.export import checkpoint
from hm3rl.export.checkpoint import export_candidate
from hm3rl.export.reload import probe_tokens
from hm3rl.models.pool import ModelPool
from hm3rl.paths.alignment_kind import write_scales
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet
from hm3rl.paths.statistics import Calibration

REPEAT = "a | a[0:2] + b[1] + b[1] + a[2:4]"
PATHS = {
    "repeat": REPEAT,
    "skip": "b | a[0] + b[3]",
    "reorder": "a | b[3] + a[2] + b[1] + a[0]",
}


@pytest.fixture
def members(family_pool) -> MemberSet:
    return MemberSet(family_pool)


@pytest.mark.parametrize("text", PATHS.values(), ids=PATHS)
def test_restacked_export_reloads_with_the_same_logits(members, tmp_path, text):
    candidate = Candidate(LayerPath.parse(text))
    if getattr(members.pool.config, "scale_attn_by_inverse_layer_idx", False):
        return  # refused, see below
    export_candidate(candidate, members, tmp_path / "model")
    tokens = torch.randint(3, 32, (2, 20), generator=torch.Generator().manual_seed(5))
    expected = assemble(candidate, members)(tokens).logits
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    error = (reloaded(tokens).logits - expected).abs().max() / expected.abs().max()
    assert error.item() <= 1e-5
    types = getattr(members.pool.config, "layer_types", None)
    if types is not None:
        written = json.loads((tmp_path / "model" / "config.json").read_text())
        assert written["layer_types"] == [types[layer] for _, layer in candidate.path.refs]


def test_wrong_kinds_of_layers_are_found_behind_windows_longer_than_the_prompts(
    save_pool, family_configs, tmp_path, monkeypatch
):
    settings = family_configs["qwen2"].to_dict() | {"sliding_window": 2048}
    folders = save_pool(tmp_path / "pool", type(family_configs["qwen2"])(**settings), ("a",))
    members = MemberSet(ModelPool.load(folders["base"], {"a": folders["a"]}))
    write = checkpoint._write_config

    def write_reversed(model, pool, folder):
        write(model, pool, folder)
        plain = json.loads((folder / "config.json").read_text())
        plain["layer_types"].reverse()
        (folder / "config.json").write_text(json.dumps(plain))

    monkeypatch.setattr(checkpoint, "_write_config", write_reversed)
    with pytest.raises(IntegrityError, match=r"sliding window 2048 at layer 0, .* has None"):
        export_candidate(Candidate.whole("a", 4), members, tmp_path / "model")


def test_the_self_check_looks_beyond_the_window(members):
    window = getattr(members.pool.config, "sliding_window", None) or 0
    assert probe_tokens(members.pool.config).shape[1] > window + 1


def test_positions_that_no_config_expresses_are_refused_before_writing(
    tmp_path, save_pool, family_configs
):
    folders = save_pool(tmp_path / "pool", family_configs["gpt2_inverse_scale"], ("a",))
    members = MemberSet(ModelPool.load(folders["base"], {"a": folders["a"]}))
    with pytest.raises(
        InputError,
        match=r"layer 2 of a stands at depth 1, where it needs attention scale by depth 1/3",
    ):
        export_candidate(Candidate(LayerPath.parse("a | a[0] + a[2]")), members, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]
    export_candidate(Candidate(LayerPath.parse("a | a[0:2]")), members, tmp_path / "model")


def test_a_folded_alignment_is_exported_with_its_error_stated(family_pool, tmp_path):
    if getattr(family_pool.config, "scale_attn_by_inverse_layer_idx", False):
        return  # no path of these can be exported but whole ones
    sequences = torch.randint(3, 32, (4, 12), generator=torch.Generator().manual_seed(6))
    members = MemberSet(family_pool, calibration=Calibration.of(sequences.tolist()))
    candidate = Candidate(LayerPath.parse(REPEAT), alignment=members.alignment("scalar"))
    report = export_candidate(candidate, members, tmp_path / "model")
    recipe = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    fold = recipe["fold"]
    assert Candidate.from_dict(recipe) == candidate
    assert report.check.logit_error <= 1e-5
    tokens = torch.randint(3, 32, (2, 20), generator=torch.Generator().manual_seed(5))
    wanted = assemble(candidate, members)(tokens).logits
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    error = ((reloaded(tokens).logits - wanted).abs().max() / wanted.abs().max()).item()
    assert error <= fold["tolerance"]
    plain = assemble(Candidate(candidate.path), members)(tokens).logits
    assert error < 0.1 * ((plain - wanted).abs().max() / wanted.abs().max()).item()
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"within {fold['logit_error']:.1e} of the aligned model's" in card


def test_given_scales_act_as_written_and_are_exported(family_pool, tmp_path):
    if getattr(family_pool.config, "scale_attn_by_inverse_layer_idx", False):
        return  # no path of these can be exported but whole ones
    members = MemberSet(family_pool)
    path = LayerPath.parse(REPEAT)
    factors = [1.3 if number % 2 else 0.8 for number in range(len(path.stitch_points))]
    candidate = Candidate(path, alignment=write_scales(factors))
    tokens = torch.randint(3, 32, (2, 20), generator=torch.Generator().manual_seed(5))
    wanted = assemble(candidate, members)(tokens).logits
    assert not torch.allclose(wanted, assemble(Candidate(path), members)(tokens).logits)
    export_candidate(candidate, members, tmp_path / "model")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    recipe = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())
    assert Candidate.from_dict(recipe) == candidate
    error = ((reloaded(tokens).logits - wanted).abs().max() / wanted.abs().max()).item()
    assert error <= recipe["fold"]["tolerance"]


def test_what_does_not_fold_is_refused_before_writing(tiny_pool, tmp_path):
    members = MemberSet(tiny_pool, calibration=Calibration.of([(5, 6, 7), (8, 9)]))
    for text, kind in {"a | a[0] + b[2]": "diagonal", "a | b[0:3]": "scalar"}.items():
        candidate = Candidate(LayerPath.parse(text), alignment=members.alignment(kind))
        with pytest.raises(InputError, match=r"do not fold|in front of layer 0"):
            export_candidate(candidate, members, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_fold_that_is_too_far_off_is_refused(tiny_pool, tmp_path, monkeypatch):
    monkeypatch.setattr("hm3rl.export.fold.FOLD_TOLERANCE", 1e-12)
    members = MemberSet(tiny_pool, calibration=Calibration.of([(5, 6, 7), (8, 9)]))
    path = LayerPath.parse("a | a[0] + b[2] + a[2]")
    with pytest.raises(InputError, match="folding the alignment changes the logits by"):
        export_candidate(
            Candidate(path, alignment=members.alignment("scalar")), members, tmp_path / "model"
        )
    assert not list(tmp_path.iterdir())

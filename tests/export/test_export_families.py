"""Every family: re-stacked, exported, reloaded, with prompts longer than the sliding window."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from hm3rl.errors import InputError
from hm3rl.export.checkpoint import export_candidate
from hm3rl.export.reload import probe_tokens
from hm3rl.models.pool import ModelPool
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

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

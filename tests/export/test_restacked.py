"""Every family, re-stacked and reloaded: greedy tokens with cache, without, and left-padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.export.checkpoint import export_candidate
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

# Repeats b[1], skips layer 2 of a, and goes back to a[1] from b[3].
CANDIDATE = Candidate(LayerPath.parse("a | a[0:2] + b[1] + b[1] + b[3] + a[1] + a[3]"))
PROMPT, PADS, NEW = 14, 3, 6  # longer than the windows of 6


def greedy(model: PreTrainedModel, tokens: torch.Tensor, pads: int = 0, **settings: Any) -> Any:
    """The tokens that follow the prompts, which get `pads` padding tokens in front."""
    padding = torch.zeros(len(tokens), pads, dtype=tokens.dtype)
    mask = torch.cat([padding, torch.ones_like(tokens)], dim=1)
    done = model.generate(
        torch.cat([padding, tokens], dim=1),
        attention_mask=mask,
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **settings,
    )
    return done[:, pads + tokens.shape[1] :].tolist()


def test_every_way_of_decoding_gives_the_same_tokens(family_pool, tmp_path):
    members = MemberSet(family_pool)
    if getattr(family_pool.config, "scale_attn_by_inverse_layer_idx", False):
        with pytest.raises(InputError, match="attention scale"):
            export_candidate(CANDIDATE, members, tmp_path / "model")
        return
    export_candidate(CANDIDATE, members, tmp_path / "model")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 32, (3, PROMPT), generator=generator)
    expected = greedy(assemble(CANDIDATE, members), tokens, use_cache=False)
    assert greedy(reloaded, tokens, use_cache=False) == expected
    assert greedy(reloaded, tokens, use_cache=True) == expected
    assert greedy(reloaded, tokens, pads=PADS, use_cache=True) == expected
    assert greedy(reloaded, tokens, pads=PADS, use_cache=False) == expected

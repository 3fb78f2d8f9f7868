"""Names in files and in models, against the library's own saving."""

from __future__ import annotations

import pytest
from safetensors import safe_open
from transformers import MixtralConfig, Qwen3MoeConfig

from hm3rl.errors import InputError
from hm3rl.models.loading import quiet_transformers
from hm3rl.models.tensor_names import (
    check_writable,
    loaded_names,
    names_in_files,
    saved_names,
    skeleton,
)

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTURES = {
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=2),
    "qwen3_moe": Qwen3MoeConfig(**SHAPE, num_experts=2, moe_intermediate_size=8, head_dim=8),
}


def test_names_are_those_that_save_pretrained_writes(family_pool, tmp_path):
    model = family_pool.model("base")
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as handle:
        written = set(handle.keys())
    assert names_in_files(model.config) == written
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    names = saved_names(model)
    assert {name for own, name in names.items() if own not in tied} == written
    back = loaded_names(skeleton(model.config), names.values())
    assert {own for own, _ in back.values()} == names.keys()
    assert ("embed_out.weight" in written) == (model.config.model_type == "gpt_neox")


@pytest.mark.parametrize("kind", MIXTURES)
def test_packed_experts_cannot_be_written(kind):
    with pytest.raises(InputError, match=f"'{kind}' cannot be written: .*experts.* is packed"):
        check_writable(MIXTURES[kind])

"""Random sources of real models' shapes: a base, and experts that differ from it a little."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from hm3rl.models.loading import quiet_transformers

EXPERTS = ("a", "b", "c")

SHAPES: dict[str, PretrainedConfig] = {
    "tiny": LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "memory": LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
}
"""Configuration by name; `tiny` is for trying a benchmark out, `memory` has 28 M weights."""


def make_sources(shape: str, root: Path, size: float = 1e-3) -> dict[str, Path]:
    """Write base and experts in bf16, unless they are there.

    Args:
        shape: A key of `SHAPES`.
        root: Folder for their folders.
        size: Standard deviation of the experts' differences (weights have 0.02).

    Returns:
        Folder by name: `base`, then `EXPERTS`.
    """
    folders = {name: root / name for name in ("base", *EXPERTS)}
    if (root / "complete").is_file():
        return folders
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.float32)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")),
        pad_token="<pad>",
    )
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_config(SHAPES[shape], dtype=torch.bfloat16)
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), base.parameters(), strict=True):
                noise = size * torch.randn(theirs.shape) if name != "base" else 0.0
                ours.copy_(theirs + noise)
        with quiet_transformers():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (root / "complete").touch()
    return folders

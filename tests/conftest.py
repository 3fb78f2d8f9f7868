"""Fixtures shared by all tests: one thread, no network, and pools of tiny random models."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from hm3rl.models.loading import quiet_transformers
from hm3rl.models.pool import ModelPool

torch.set_num_threads(1)

pytest_plugins = ["tests.small_search"]

TINY_WORDS = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(28)))

WINDOW = 6
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 32}
_SHAPE: dict[str, Any] = {
    **_TOKENS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_MIXED = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
_LEARNED: dict[str, Any] = {**_TOKENS, "n_embd": 16, "n_layer": 4, "n_head": 4, "n_positions": 64}
_NEOX = {key: value for key, value in _SHAPE.items() if key != "num_key_value_heads"}

FAMILY_CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_SHAPE),
    "llama_tied": LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "mistral": MistralConfig(**_SHAPE, sliding_window=WINDOW),
    "qwen2": Qwen2Config(
        **_SHAPE, use_sliding_window=True, sliding_window=WINDOW, layer_types=_MIXED
    ),
    "qwen3": Qwen3Config(
        **_SHAPE,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=2,
    ),
    "gemma2": Gemma2Config(**_SHAPE, head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3": Gemma3TextConfig(
        **_SHAPE,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=_MIXED,
        query_pre_attn_scalar=8,
    ),
    "phi3": Phi3Config(**_SHAPE, sliding_window=WINDOW),
    "gpt2": GPT2Config(**_LEARNED, initializer_range=0.3),
    "gpt2_inverse_scale": GPT2Config(
        **_LEARNED, initializer_range=0.3, scale_attn_by_inverse_layer_idx=True
    ),
    "gpt_neox": GPTNeoXConfig(**_NEOX, use_parallel_residual=True),
    "gpt_neox_serial": GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
}


PoolSaver = Callable[..., dict[str, Path]]


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(TINY_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    )


def _llama(**changes: Any) -> LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": len(TINY_WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    return LlamaConfig(**{**settings, **changes})


def _perturb(model: torch.nn.Module, seed: int, size: float) -> None:
    """Add seeded Gaussian noise to every weight, as if the model had been fine-tuned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def _save_pool(
    root: Path, config: PretrainedConfig, experts: Sequence[str] = ("a", "b", "c")
) -> dict[str, Path]:
    """Save a random base and perturbed copies of it with the tiny tokenizer."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config)
    folders = {}
    for seed, name in enumerate(("base", *experts)):
        model = copy.deepcopy(base)
        if name != "base":
            _perturb(model, seed, 0.1)
        folders[name] = root / name
        with quiet_transformers():
            model.save_pretrained(folders[name])
        _tokenizer().save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="session")
def tiny_words() -> tuple[str, ...]:
    """All tokens of the tiny vocabulary, by id; ids 0 to 3 are pad, bos, eos, unk."""
    return TINY_WORDS


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., LlamaConfig]:
    """`tiny_config(**changes)` configures a 3-layer Llama of width 16 over the tiny vocabulary."""
    return _llama


@pytest.fixture(scope="session")
def save_pool() -> PoolSaver:
    """`save_pool(root, config, experts=...)` saves random base and experts: folder by name."""
    return _save_pool


@pytest.fixture(scope="session")
def tiny_pool_dir(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a 3-layer random Llama `base` and three perturbed copies `a`, `b`, `c`."""
    return _save_pool(tmp_path_factory.mktemp("tiny_pool"), _llama())


@pytest.fixture(scope="session")
def tiny_pool(tiny_pool_dir: dict[str, Path]) -> ModelPool:
    """The loaded pool of `tiny_pool_dir`; immutable, hence shared by the whole session."""
    experts = {name: path for name, path in tiny_pool_dir.items() if name != "base"}
    return ModelPool.load(tiny_pool_dir["base"], experts)


@pytest.fixture(scope="session")
def family_configs() -> dict[str, PretrainedConfig]:
    """A 4-layer configuration of every supported family, sliding windows of 6 where it has any."""
    return FAMILY_CONFIGS


@pytest.fixture(scope="session", params=list(FAMILY_CONFIGS))
def family_pool(request, tmp_path_factory: pytest.TempPathFactory) -> ModelPool:
    """A pool of experts `a` and `b` for each family in turn."""
    folders = _save_pool(
        tmp_path_factory.mktemp(request.param), FAMILY_CONFIGS[request.param], ("a", "b")
    )
    return ModelPool.load(folders["base"], {"a": folders["a"], "b": folders["b"]})

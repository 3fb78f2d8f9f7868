"""May these sources be merged and stitched? Every refusal names both sides.

Merging needs tensors of equal name and shape; stitching needs that one configuration expresses all
layers. What is compared is everything that changes what a layer computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hm3rl.errors import InputError

COMPARED = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "n_inner",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "attention_bias",
    "mlp_bias",
    "use_parallel_residual",
    "query_pre_attn_scalar",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "rope_parameters",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "max_position_embeddings",
    "tie_word_embeddings",
    "vocab_size",
)
"""Configuration entries that must agree (absent counts as a value)."""

_ABSENT = "absent"


def differences(ours: PretrainedConfig, theirs: PretrainedConfig) -> list[tuple[str, Any, Any]]:
    """List the compared entries in which two configurations differ.

    Returns:
        Triples (entry, value in `ours`, value in `theirs`), in the order of `COMPARED`.
    """
    pairs = ((k, getattr(ours, k, _ABSENT), getattr(theirs, k, _ABSENT)) for k in COMPARED)
    return [(key, a, b) for key, a, b in pairs if a != b]


def check_configs(configs: Mapping[str, PretrainedConfig]) -> None:
    """Compare every source with the first one, the base.

    Args:
        configs: Configuration by source label, base first.

    Raises:
        InputError: Two sources differ; names the entry, both sources and both values.
    """
    (base_label, base), *others = configs.items()
    for label, config in others:
        found = differences(base, config)
        if found:
            key, ours, theirs = found[0]
            more = f" (and in {', '.join(k for k, _, _ in found[1:])})" if found[1:] else ""
            raise InputError(
                f"{label} and {base_label} differ in {key}: {theirs} against {ours}{more}",
                "experts must be fine-tuned from the base, with its architecture and vocabulary",
            )


def check_vocabulary(
    base: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, label: str, base_label: str
) -> None:
    """Require that two tokenizers give every token the same id.

    Raises:
        InputError: They do not; names one token and both ids.
    """
    ours, theirs = base.get_vocab(), other.get_vocab()
    for token in sorted(ours.keys() | theirs.keys()):
        if ours.get(token) != theirs.get(token):
            raise InputError(
                f"{label} and {base_label} give token {token!r} different ids: "
                f"{theirs.get(token)} against {ours.get(token)} "
                f"({len(theirs)} against {len(ours)} tokens)",
                "all sources must share the base's vocabulary",
            )


def check_tokenizer_rows(tokens: int, rows: int, folder: Path) -> None:
    """Require an embedding row for every token; spare rows are fine (padding to a multiple).

    Raises:
        InputError: The tokenizer knows more tokens than the embedding has rows.
    """
    if tokens > rows:
        raise InputError(
            f"the tokenizer in {folder} has {tokens} tokens, the embedding only {rows} rows",
            "resize the embedding, or remove the added tokens from the tokenizer",
        )

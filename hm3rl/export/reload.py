"""The self-check of an export: does the folder load plainly and compute the same?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from hm3rl.errors import IntegrityError
from hm3rl.models.loading import find_weights, quiet_transformers
from hm3rl.models.tensor_names import names_in_files
from hm3rl.paths.families import layer_settings

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-5}
"""Largest |difference| of logits over max |logit| that passes, by precision."""

HALF_TOLERANCE = 2e-2
"""The same for 16-bit precisions."""

NEW_TOKENS = 8
LONGEST_PROMPT = 1024
"""Tokens; windows of 4096 would make the check of a large model take longer than its merge."""


@dataclass(frozen=True)
class ReloadCheck:
    """What comparing the reloaded with the in-memory model gave.

    Attributes:
        logit_error: max |reloaded - in memory| / max |in memory| over all positions.
        tolerance: What passes.
        prompt_tokens: Length of the prompts compared: beyond the sliding window, unless the window
            is longer than `LONGEST_PROMPT`. That every layer's settings are what they were, the
            window among them, is compared apart from that.
        generated_tokens: Greedy tokens generated with and without cache, which agreed.
        dtype: Precision of the weights, e.g. "bfloat16".
    """

    logit_error: float
    tolerance: float
    prompt_tokens: int
    generated_tokens: int
    dtype: str


@torch.no_grad()
def check_reload(folder: Path, expected: PreTrainedModel) -> ReloadCheck:
    """Load a folder with plain transformers and compare it with the model it was written from.

    Args:
        folder: The checkpoint folder.
        expected: The model in memory.

    Returns:
        The result, which passed.

    Raises:
        IntegrityError: Keys are missing or unexpected, a layer's settings or the logits differ, or
            decoding with the cache differs from decoding without it.
    """
    reloaded = _reload(folder, expected)
    check_names(folder, reloaded.config)
    tolerance = TOLERANCES.get(expected.dtype, HALF_TOLERANCE)
    tokens = probe_tokens(expected.config).to(expected.device)
    ours, theirs = expected(tokens).logits.float(), reloaded(tokens).logits.float()
    if not bool(torch.isfinite(ours).all()):
        raise IntegrityError(f"the model of {folder} puts out logits that are NaN or infinite")
    scale = ours.abs().max().clamp_min(1e-12)
    error = ((ours - theirs).abs().max() / scale).item()
    if not error <= tolerance:
        raise IntegrityError(
            f"{folder} does not compute what the candidate computes: logits differ by "
            f"{error:.1e} of the largest, {tolerance:.0e} allowed"
        )
    generated = _check_decoding(reloaded, tokens, tolerance * scale.item(), folder)
    dtype = str(expected.dtype).removeprefix("torch.")
    return ReloadCheck(error, tolerance, tokens.shape[1], generated, dtype)


def check_names(folder: Path, config: PretrainedConfig) -> None:
    """Require the tensors that `save_pretrained` writes, no other names and none besides.

    Loading cannot tell: it takes names of older versions, and its own.

    Args:
        folder: The checkpoint folder.
        config: Its configuration.

    Raises:
        IntegrityError: Names a tensor and where it is missing.
    """
    written: set[str] = set()
    for file in find_weights(str(folder), folder):
        with safe_open(str(file), framework="pt") as handle:
            written.update(handle.keys())
    wanted = names_in_files(config)
    for name in sorted(written ^ wanted):
        what = "holds" if name in written else "lacks"
        raise IntegrityError(
            f"{folder} {what} the tensor {name}, other than checkpoints of type "
            f"{config.model_type!r} do"
        )


def probe_tokens(config: Any) -> torch.Tensor:
    """Draw the prompts of the check, always the same for one configuration.

    Returns:
        Token ids, shape (2, n), n beyond the sliding window if there is one, room for it, and it is
        no longer than `LONGEST_PROMPT`.
    """
    window = getattr(config, "sliding_window", None) or 16
    room = int(getattr(config, "max_position_embeddings", 2048)) - NEW_TOKENS
    length = max(1, min(window + 8, room, LONGEST_PROMPT))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.vocab_size, (2, length), generator=generator)


def _reload(folder: Path, expected: PreTrainedModel) -> PreTrainedModel:
    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=expected.dtype,
            attn_implementation=expected.config._attn_implementation,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, report = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise IntegrityError(f"{folder} reloads with {kind}: {sorted(map(str, report[kind]))}")
    if report.get("error_msgs"):
        raise IntegrityError(f"{folder} reloads with errors: {report['error_msgs']}")
    _compare_layers(folder, model.config, expected.config)
    result: PreTrainedModel = model.to(expected.device).eval()
    return result


def _compare_layers(folder: Path, found: PretrainedConfig, wanted: PretrainedConfig) -> None:
    """Require the settings of every layer: a window or a scaling may show in long inputs only."""
    if found.num_hidden_layers != wanted.num_hidden_layers:
        raise IntegrityError(
            f"{folder} reloads with {found.num_hidden_layers} layers, written were "
            f"{wanted.num_hidden_layers}"
        )
    for depth in range(wanted.num_hidden_layers):
        ours, theirs = layer_settings(wanted, depth), layer_settings(found, depth)
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise IntegrityError(
                    f"{folder} reloads with {name} {theirs.get(name)} at layer {depth}, the "
                    f"candidate has {value}"
                )


def _check_decoding(
    model: PreTrainedModel, tokens: torch.Tensor, tolerance: float, folder: Path
) -> int:
    settings: dict[str, Any] = {
        "max_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "num_beams": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(tokens),
    }
    with quiet_transformers():
        cached = model.generate(tokens, use_cache=True, **settings)  # type: ignore[operator]
        plain = model.generate(tokens, use_cache=False, **settings)  # type: ignore[operator]
    for row, (ours, theirs) in enumerate(zip(cached, plain, strict=True)):
        differing = (ours != theirs).nonzero().flatten()
        if not len(differing):
            continue
        # Greedy decoding may take either of two tokens that are equal up to rounding.
        first = int(differing[0])
        logits = model(ours[None, :first]).logits[0, -1].float()
        margin = (logits.max() - logits[[ours[first], theirs[first]]].min()).item()
        if margin > tolerance:
            raise IntegrityError(
                f"{folder} decodes differently with and without cache "
                f"(prompt {row}, token {first - tokens.shape[1]}, margin {margin:.1e})"
            )
    return int(cached.shape[1] - tokens.shape[1])

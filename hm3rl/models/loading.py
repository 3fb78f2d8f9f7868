"""Reading one source from disk, with every way a folder can be wrong told apart.

Only safetensors are read, nothing is downloaded and no remote code runs. The cheap checks (files,
headers, configuration) come first, so that bad input is reported before any long work.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from hm3rl.errors import InputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")

OBSOLETE = re.compile(r"(^|\.)(attn|attention)\.masked_bias$")
"""Constants that GPT-2 and its like once stored; nothing computes with them."""

_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors$")
"""Names of the files of a distributed checkpoint, as transformers knows them."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and load reports; we report ourselves what matters."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def read_json(label: str, file: Path) -> dict[str, Any]:
    """Read a JSON file of a model's folder, which must hold named entries.

    Args:
        label: How messages name the source.
        file: The file.

    Raises:
        InputError: The file cannot be read, is no JSON, or its outermost value has no names.
    """
    remedy = "download or save this file again"
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = f"{label}: {file} cannot be read ({_first_line(error)})"
        raise InputError(what, remedy) from error
    if not isinstance(plain, dict):
        raise InputError(
            f"{label}: {file} holds a {type(plain).__name__} instead of named entries", remedy
        )
    return plain


def find_weights(label: str, folder: Path) -> list[Path]:
    """List the files that loading a checkpoint's or an adapter's folder reads.

    The one place that knows transformers' order of precedence: what `transformers_weights` in
    config.json names, else the single file, else the index's shards. The hash, the scan of the
    headers and the load all see these files, whatever else lies beside them.

    Args:
        label: How messages name the source, e.g. "expert 'math'".
        folder: The folder.

    Returns:
        The files, in the order in which transformers reads them.

    Raises:
        InputError: No folder, no config.json, pickled weights only, no weights, a missing shard.
    """
    if not folder.is_dir():
        raise InputError(
            f"{label}: there is no folder {folder}",
            "give a folder with config.json and safetensors (a model of the hub: "
            "hf download USER/NAME --local-dir FOLDER), or zoo:NAME for a packaged model",
        )
    if is_adapter(folder):
        if any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
            raise InputError(
                f"{label}: {folder} holds both whole weights and an adapter's {ADAPTER_CONFIG}",
                "keep the adapter in a folder of its own",
            )
        if not (folder / ADAPTER_FILE).is_file():
            raise InputError(
                f"{label}: the adapter in {folder} has no {ADAPTER_FILE}",
                "finish the download, or save it with safe_serialization=True",
            )
        return [folder / ADAPTER_FILE]
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{label}: {folder} has no config.json",
            "point to the folder that `save_pretrained` wrote, not to the one around it",
        )
    parts = sorted(file.name for file in folder.iterdir() if _DISTRIBUTED.match(file.name))
    if parts:
        raise InputError(
            f"{label}: {folder} holds a distributed training checkpoint ({parts[0]}), which "
            "transformers loads before anything else",
            "save the whole model into a folder of its own with `save_pretrained`",
        )
    named = read_json(label, folder / "config.json").get("transformers_weights")
    if named is not None:
        return _named_weights(label, folder, named)
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        return _shards(label, folder / INDEX_FILE)
    pickled = sorted(file.name for pattern in PICKLE_PATTERNS for file in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{label}: {folder} has only pickled weights ({pickled[0]}), and unpickling runs code",
            "convert it where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER) writes safetensors",
        )
    variants = sorted(file.name for file in folder.glob("model.*.safetensors"))
    if variants:
        raise InputError(
            f"{label}: {folder} has no {SINGLE_FILE}, only the variant {variants[0]}",
            f"rename it to {SINGLE_FILE}, or save that variant on its own with `save_pretrained`",
        )
    raise InputError(
        f"{label}: {folder} has no weights ({SINGLE_FILE} or {INDEX_FILE})",
        "finish the download, or save the model with `save_pretrained`",
    )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter that PEFT wrote."""
    return (folder / ADAPTER_CONFIG).is_file()


def _named_weights(label: str, folder: Path, named: Any) -> list[Path]:
    """Find what `transformers_weights` in config.json names."""
    if not isinstance(named, str) or not _inside(named):
        raise InputError(
            f"{label}: transformers_weights in {folder / 'config.json'} names {named!r}, which is "
            "no file inside the folder",
            "delete that entry, or name a file beside config.json",
        )
    file = folder / named
    if not file.is_file():
        raise InputError(
            f"{label}: transformers_weights in {folder / 'config.json'} names {named}, which is "
            "not there",
            "finish the download, or delete that entry",
        )
    return _shards(label, file) if named.endswith(".safetensors.index.json") else [file]


def _inside(name: str) -> bool:
    """Whether a file's name stays inside the folder it is relative to.

    Links are not followed: the hub's cache keeps the files elsewhere and links to them.
    """
    plain = os.path.normpath(name)
    return not os.path.isabs(plain) and plain.split(os.sep)[0] not in ("..", ".")


def _shards(label: str, index: Path) -> list[Path]:
    plain = read_json(label, index)
    for entry in ("weight_map", "metadata"):
        if isinstance(plain.get(entry), dict) and (entry == "metadata" or plain[entry]):
            continue
        raise InputError(
            f"{label}: {index} is no shard index: it has no {entry}",
            "download it again, or save the model again with `save_pretrained`",
        )
    names = sorted({str(name) for name in plain["weight_map"].values()})
    outside = next((name for name in names if not _inside(name)), None)
    if outside is not None:
        raise InputError(
            f"{label}: {index} names the shard {outside!r}, which lies outside its folder",
            "put all shards beside the index, and name them there without folders",
        )
    lost = [name for name in names if not (index.parent / name).is_file()]
    if lost:
        raise InputError(
            f"{label}: {index.parent} lacks {len(lost)} of {len(names)} shards ({lost[0]})",
            "finish the download",
        )
    return [index.parent / name for name in names]


def check_headers(label: str, files: list[Path]) -> None:
    """Read the header of every file, which also compares the promised with the actual length.

    Raises:
        InputError: A file is truncated or no safetensors file at all.
    """
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{label}: {file} is corrupt ({error})", "download or save this file again"
            ) from error


def load_config(label: str, folder: Path) -> PretrainedConfig:
    """Read and validate config.json.

    Returns:
        The configuration; the old spelling `type` of a rope's `rope_type` is dropped, so that equal
        ropes are equal.

    Raises:
        InputError: The file cannot be read as the configuration of a known, unquantised model of
            text alone.
    """
    read_json(label, folder / "config.json")
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library raises a dozen kinds, all of them mean "bad file"
        raise InputError(
            f"{label}: {folder / 'config.json'} cannot be used ({_first_line(error)})",
            "the model must be a causal language model that transformers knows without remote code",
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{label}: {folder} is quantised, and quantised weights cannot be merged",
            "load it dequantised and save it again, or use the original checkpoint",
        )
    _refuse_wrapper(label, folder, config)
    rope = getattr(config, "rope_parameters", None)
    for settings in (rope, *(rope or {}).values()):
        if isinstance(settings, dict) and "rope_type" in settings:
            settings.pop("type", None)
    return config


EXTRACT = """import transformers as t
m = t.AutoModelForImageTextToText.from_pretrained({folder!r}, dtype="auto")
c = m.config.get_text_config()
c.tie_word_embeddings = m.get_output_embeddings().weight is m.get_input_embeddings().weight
x = t.AutoModelForCausalLM.from_config(c, dtype=m.dtype)
w = {{f"{{x.base_model_prefix}}.{{k}}": v for k, v in m.get_decoder().state_dict().items()}}
x.load_state_dict({{"lm_head.weight": m.get_output_embeddings().weight, **w}})
x.generation_config = m.generation_config
x.save_pretrained("NEW_FOLDER")
t.AutoTokenizer.from_pretrained({folder!r}).save_pretrained("NEW_FOLDER")"""
"""Python that takes the text model out of a model of several kinds of input."""


def _refuse_wrapper(label: str, folder: Path, config: PretrainedConfig) -> None:
    """Refuse a model of text and pictures, whose settings lie one level deeper."""
    text = config.get_text_config()
    if text is config:
        return
    raise InputError(
        f"{label}: {folder} is of type {config.model_type!r}, which wraps the text model "
        f"{text.model_type!r} together with other kinds of input",
        "take its text model out once, with this Python, and give NEW_FOLDER:\n"
        + EXTRACT.format(folder=str(folder)),
    )


def load_model(
    label: str, folder: Path, config: PretrainedConfig, dtype: torch.dtype, device: str
) -> PreTrainedModel:
    """Load one checked folder.

    Args:
        label: How messages name the source.
        folder: A folder that `models/source.py` accepted.
        config: Its configuration, corrected by what the files hold.
        dtype: Precision to hold the weights in.
        device: Where to hold them.

    Returns:
        The model in evaluation mode, no parameter asking for gradients.

    Raises:
        InputError: Tensors are missing, superfluous, of the wrong shape, NaN or infinite.
    """
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(folder),
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, with the tensor's name
                output_loading_info=True,
            )
            model: PreTrainedModel = loaded[0]
            report: dict[str, Any] = loaded[1]
    except Exception as error:
        raise InputError(
            f"{label}: {folder} cannot be loaded ({_first_line(error)})",
            "the weights must fit config.json; save the model again with `save_pretrained`",
        ) from error
    report["unexpected_keys"] = [k for k in report["unexpected_keys"] if not OBSOLETE.search(k)]
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        # The headers were compared before; what is left are tensors that are stored in parts.
        if report.get(kind):
            example = sorted(str(key) for key in report[kind])[0]
            raise InputError(
                f"{label}: {folder} does not fit its config.json: {len(report[kind])} "
                f"{kind.replace('_', ' ')}, e.g. {example}",
                "save the model again with `save_pretrained`",
            )
    check_finite(label, model)
    placed: PreTrainedModel = torch.nn.Module.to(model, device)
    return placed.eval().requires_grad_(False)


def check_finite(label: str, model: PreTrainedModel) -> None:
    """Refuse weights that are not numbers.

    Raises:
        InputError: A tensor holds NaN or an infinity; it is named.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(
                f"{label}: tensor {name} holds NaN or infinite weights",
                "its training diverged or the file is damaged; use another checkpoint",
            )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

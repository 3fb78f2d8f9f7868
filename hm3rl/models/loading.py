"""Reading one source from disk, with every way a folder can be wrong told apart.

Only safetensors are read, nothing is downloaded and no remote code runs. The cheap checks (files,
headers, configuration) come first, so that bad input is reported before any long work.
"""

from __future__ import annotations

import json
import logging
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


def find_weights(label: str, folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint's or an adapter's folder.

    Args:
        label: How messages name the source, e.g. "expert 'math'".
        folder: The folder.

    Returns:
        The files in a fixed order.

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
    index = folder / INDEX_FILE
    if index.is_file():
        return _shards(label, index)
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    pickled = sorted(file.name for pattern in PICKLE_PATTERNS for file in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{label}: {folder} has only pickled weights ({pickled[0]}), and unpickling runs code",
            "convert it where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER) writes safetensors",
        )
    raise InputError(
        f"{label}: {folder} has no weights ({SINGLE_FILE} or {INDEX_FILE})",
        "finish the download, or save the model with `save_pretrained`",
    )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter that PEFT wrote."""
    return (folder / ADAPTER_CONFIG).is_file()


def _shards(label: str, index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({index.parent / str(name) for name in weight_map.values()})
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{label}: {index} is not a shard index ({error})", "download it again"
        ) from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"{label}: {index.parent} lacks {len(missing)} of {len(files)} shards ({missing[0]})",
            "finish the download",
        )
    return files


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

    Raises:
        InputError: The file cannot be read as the configuration of a known, unquantised model.
    """
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
    return config


def load_model(label: str, folder: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Load one checked folder.

    Args:
        label: How messages name the source.
        folder: A folder that `find_weights` and `check_headers` accepted.
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
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
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

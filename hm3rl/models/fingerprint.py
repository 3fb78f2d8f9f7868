"""Content hashes of model folders: the same weights give the same hash, wherever they lie.

The hash covers the configuration, what ends a generation, the tokenizer file and every tensor
(name, dtype, shape, bytes), in the order of the tensors' names. So it depends neither on the
folder's path nor on how the checkpoint is sharded, and it is taken before any conversion to another
precision.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hm3rl.models.hashing import canonical_json

VOLATILE_CONFIG_KEYS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Entries of config.json that do not change what the model computes from its stored weights."""


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return a CPU tensor's elements as bytes, in row-major order, for any dtype."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def folder_hash(folder: Path, files: list[Path]) -> str:
    """Hash one checkpoint folder.

    Args:
        folder: The folder; its config.json and, where present, tokenizer.json and the end tokens
            of generation_config.json count.
        files: What loading it reads, in that order: `find_weights` says.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in VOLATILE_CONFIG_KEYS}
    digest.update(canonical_json(kept).encode())
    end = _end_tokens(folder)
    if end is not None and end != config.get("eos_token_id"):
        digest.update(f"\0end\0{end}\0".encode())
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        digest.update(hashlib.sha256(tokenizer.read_bytes()).digest())
    where: dict[str, Path] = {}
    for file in files:
        with safe_open(str(file), framework="pt") as handle:
            where.update(dict.fromkeys(handle.keys(), file))
    handles = {file: safe_open(str(file), framework="pt") for file in files}
    for name in sorted(where):
        tensor = handles[where[name]].get_tensor(name)
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _end_tokens(folder: Path) -> Any:
    """What generation_config.json names as end tokens; None if there is none."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except ValueError:  # transformers passes over a file that it cannot read
        return None

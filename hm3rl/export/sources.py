"""Finding the models that a recipe names, and the precision they are stored in."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from hm3rl.errors import InputError
from hm3rl.models.loading import find_weights
from hm3rl.models.zoo import ZOO_PREFIX, resolve_source

STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Floating-point types of safetensors."""


def find_source(reference: str) -> str:
    """Find a model that a recipe names; nothing is downloaded.

    Args:
        reference: A folder, "zoo:NAME", or the id of a repository in the local hub cache, possibly
            with "@revision".

    Returns:
        What `ModelPool.load` takes: a folder, or "zoo:NAME".

    Raises:
        InputError: There is no such folder and no such repository in the cache.
    """
    if reference.startswith(ZOO_PREFIX) or resolve_source(reference).is_dir():
        return reference
    repository, _, revision = reference.partition("@")
    try:
        return snapshot_download(repository, revision=revision or None, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        raise InputError(
            f"{reference!r} is neither a folder nor a model in the local hub cache",
            f"give a folder, or fetch it first: hf download {repository}"
            if reference.count("/") == 1 and not os.path.isabs(reference)
            else "give the folder of a checkpoint",
        ) from None


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the widest floating-point type in which a checkpoint's tensors are stored.

    Reads the files' headers only.

    Args:
        folder: A checkpoint folder.

    Returns:
        The type that represents all of them without loss.
    """
    found = {
        STORED[entry["dtype"]]
        for file in find_weights(str(folder), folder)
        for name, entry in _header(file).items()
        if name != "__metadata__" and entry["dtype"] in STORED
    }
    return widest(found)


def widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """Return the narrowest type that holds all of these; float32 for both 16-bit types."""
    result = next(iter(dtypes), torch.float32)
    for dtype in dtypes:
        result = torch.promote_types(result, dtype)
    return result


def _header(file: Path) -> Mapping[str, Mapping[str, str]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: Mapping[str, Mapping[str, str]] = json.loads(stream.read(length))
    return header

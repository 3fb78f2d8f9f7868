"""Finding the models that a recipe names, and the precision they are stored in."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from hm3rl.errors import InputError
from hm3rl.models.loading import check_headers, find_weights
from hm3rl.models.zoo import NAMED, resolve_source

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
        reference: A folder, "zoo:NAME" or "smollm2:NAME", or the id of a repository in the hub's
            local cache, possibly with "@revision".

    Returns:
        What `ModelPool.load` takes: a folder, or a name such as "zoo:NAME".

    Raises:
        InputError: There is no such folder and no such repository in the cache.
    """
    if reference.startswith(NAMED) or resolve_source(reference).is_dir():
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


class StoredTensor(NamedTuple):
    """What a file's header says about a tensor: its stored type, and its number of elements."""

    dtype: str
    elements: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """List a checkpoint's tensors from the headers of its files, without reading any weights.

    Args:
        folder: A checkpoint folder.

    Returns:
        Type and size by name.

    Raises:
        InputError: The folder holds no usable weights.
    """
    files = find_weights(str(folder), folder)
    check_headers(str(folder), files)
    return {
        name: StoredTensor(entry["dtype"], math.prod(entry["shape"]))
        for file in files
        for name, entry in _header(file).items()
        if name != "__metadata__"
    }


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the narrowest type that holds all floating-point tensors of a checkpoint exactly.

    Args:
        folder: A checkpoint folder.
    """
    kinds = {tensor.dtype for tensor in stored_tensors(folder).values()}
    return widest({STORED[kind] for kind in kinds if kind in STORED})


def widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """Return the narrowest type that holds all of these; float32 for both 16-bit types."""
    result = next(iter(dtypes), torch.float32)
    for dtype in dtypes:
        result = torch.promote_types(result, dtype)
    return result


def _header(file: Path) -> Mapping[str, Mapping[str, Any]]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: Mapping[str, Mapping[str, Any]] = json.loads(stream.read(length))
    return header

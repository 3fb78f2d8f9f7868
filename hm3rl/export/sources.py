"""Finding the models that a recipe names, and the precision they are stored in."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from hm3rl.errors import InputError
from hm3rl.models.source import read_source
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


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the narrowest type that holds all floating-point tensors of a checkpoint exactly.

    Args:
        folder: A checkpoint folder.

    Raises:
        InputError: The folder holds no usable weights.
    """
    tensors = read_source(str(folder), folder).tensors.values()
    return widest({STORED[t.dtype] for t in tensors if t.dtype in STORED})


def widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """Return the narrowest type that holds all of these; float32 for both 16-bit types."""
    result = next(iter(dtypes), torch.float32)
    for dtype in dtypes:
        result = torch.promote_types(result, dtype)
    return result

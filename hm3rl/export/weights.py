"""Writing a model's weights as safetensors, one shard at a time.

Repeated layers share storage in memory but are written out in full, because a plain checkpoint has
no way to share them. A tied head is not written; anything else is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.models.loading import INDEX_FILE, SINGLE_FILE

DEFAULT_SHARD_BYTES = 5 * 10**9

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "chat_template*",
)
"""What makes up a tokenizer, copied byte by byte from its donor."""

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Read a size such as "5GB", "500 MB" or "2GiB".

    Returns:
        Bytes, at least 1.

    Raises:
        InputError: The text is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B)\s*", text, re.IGNORECASE)
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if size < 1:
        raise InputError(f"{text!r} is no size of a file", "write e.g. 5GB or 500MB")
    return size


def stored_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """List the tensors a checkpoint of this model must hold.

    Args:
        model: Any model, stitched or not.

    Returns:
        Tensor by name, in module order; a head tied to the embedding is left out.
    """
    tensors = dict(model.state_dict())
    head = model.get_output_embeddings()
    if model.config.tie_word_embeddings and head is not None:
        for name, module in model.named_modules():
            if module is head:
                tensors.pop(f"{name}.weight")
    return tensors


def split_shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Cut a list of tensors into shards; a tensor above the limit gets its own shard.

    Args:
        sizes: Bytes of each tensor, by name.
        limit: Most bytes of a shard.

    Returns:
        Names of each shard's tensors, in the order given.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, nbytes in sizes.items():
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def write_weights(
    model: PreTrainedModel, folder: Path, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> int:
    """Write all weights of a model into an empty folder.

    Args:
        model: The model.
        folder: Where to write.
        shard_bytes: Largest shard.

    Returns:
        Bytes of all tensors together.
    """
    tensors = stored_tensors(model)
    return write_shards(
        {name: tensor.nbytes for name, tensor in tensors.items()},
        lambda names: _unshared({name: tensors[name] for name in names}),
        folder,
        shard_bytes,
    )


def write_shards(
    sizes: Mapping[str, int],
    produce: Callable[[Sequence[str]], Mapping[str, torch.Tensor]],
    folder: Path,
    shard_bytes: int,
) -> int:
    """Write tensors shard by shard, each produced when its turn comes.

    A single shard is `model.safetensors`, without index; several get numbered names and an index
    with the complete weight map and the total size in bytes.

    Args:
        sizes: Bytes of each tensor, by name.
        produce: Makes the tensors of one shard, on the CPU, contiguous and sharing no memory.
        folder: Where to write.
        shard_bytes: Largest shard.

    Returns:
        Bytes of all tensors together.
    """
    shards = split_shards(sizes, shard_bytes)
    total = sum(sizes.values())
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        numbered = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = SINGLE_FILE if len(shards) == 1 else numbered
        save_file(dict(produce(names)), folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _unshared(shard: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy exactly those tensors whose storage an earlier tensor of the shard already uses."""
    seen: set[int] = set()
    result = {}
    for name, tensor in shard.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in seen:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result

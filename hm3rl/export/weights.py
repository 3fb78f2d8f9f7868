"""Writing a model's weights as safetensors, one shard at a time, and its tokenizer.

Repeated layers share storage in memory but are written out in full, because a plain checkpoint has
no way to share them. A tied head is not written; anything else is, under the names that
`save_pretrained` would give it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from huggingface_hub.constants import SAFETENSORS_WEIGHTS_FILE_PATTERN
from safetensors.torch import save_file
from transformers import PreTrainedModel

from hm3rl.errors import InputError, IntegrityError
from hm3rl.models.loading import INDEX_FILE
from hm3rl.models.tensor_names import saved_names

DEFAULT_SHARD_BYTES = 5 * 10**9

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece*",
    "chat_template*",
    "additional_chat_templates/*",
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


def copy_tokenizer(donor: Path, folder: Path) -> None:
    """Copy a tokenizer with all its chat templates.

    Args:
        donor: Folder of the source that lends it.
        folder: Where to.
    """
    for pattern in TOKENIZER_FILES:
        for file in sorted(donor.glob(pattern)):
            if file.is_file():
                target = folder / file.relative_to(donor)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)


def stored_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """List the tensors a checkpoint of this model must hold.

    Args:
        model: Any model, stitched or not.

    Returns:
        Tensor by the model's name, in module order; a head tied to the embedding is left out.

    Raises:
        InputError: The model's files would hold some of them in parts, which cannot be written.
        IntegrityError: The configuration says that the head is tied, and it is not.
    """
    state = model.state_dict()
    tensors = {name: state[name] for name in saved_names(model)}
    head: Any = model.get_output_embeddings()
    if model.config.tie_word_embeddings and head is not None:
        embedding: Any = model.get_input_embeddings()
        if head.weight.data_ptr() != embedding.weight.data_ptr():
            raise IntegrityError("the model's head is not the embedding it should be tied to")
        for name, module in model.named_modules():
            if module is head:
                tensors.pop(f"{name}.weight")
    return tensors


def split_shards(sizes: Mapping[str, int], limit: int) -> StateDictSplit:
    """Split tensors into files as every Hugging Face library does.

    The library's function for tensors keeps those of one storage in one file and counts them once;
    here repeated layers are written out in full, so their sizes are what is split.

    Args:
        sizes: Bytes of each tensor, by name.
        limit: Most bytes of a shard; a tensor above it gets its own.

    Returns:
        Names of each file's tensors, and what the index holds.
    """
    return split_state_dict_into_shards_factory(
        dict(sizes),
        get_storage_size=lambda nbytes: nbytes,
        filename_pattern=SAFETENSORS_WEIGHTS_FILE_PATTERN,
        max_shard_size=limit,
    )


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
        saved_names(model),
    )


def write_shards(
    sizes: Mapping[str, int],
    produce: Callable[[Sequence[str]], Mapping[str, torch.Tensor]],
    folder: Path,
    shard_bytes: int,
    names_in_files: Mapping[str, str],
) -> int:
    """Write tensors shard by shard, each produced when its turn comes.

    A single shard is `model.safetensors`, without index; several get numbered names and an index
    with the complete weight map and the total size in bytes.

    Args:
        sizes: Bytes of each tensor, by name.
        produce: Makes the tensors of one shard, on the CPU, contiguous and sharing no memory.
        folder: Where to write.
        shard_bytes: Largest shard.
        names_in_files: By the model's name of a tensor the one it has in the files.

    Returns:
        Bytes of all tensors together.
    """
    split = split_shards(sizes, shard_bytes)
    for file, names in split.filename_to_tensors.items():
        made = {names_in_files[name]: tensor for name, tensor in produce(names).items()}
        save_file(made, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        weight_map = {names_in_files[name]: f for name, f in split.tensor_to_filename.items()}
        index = {"metadata": split.metadata, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return sum(sizes.values())


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

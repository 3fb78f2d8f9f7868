"""Merging from files to files, for sources that do not fit into memory together or at all.

Tensors are merged shard by shard and written at once. What is in memory: one shard of the result,
the kept statistics of the task vectors (bounded), and a few megabytes of work for each thread; the
sources are mapped, not read into memory. Every tensor is checked for finite values.

The result is handed back as a model whose weights are mapped from the files, once they are known to
be what was merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from hm3rl.errors import InputError, IntegrityError
from hm3rl.export.weights import (
    split_shards,
    stored_tensors,
    write_shards,
)
from hm3rl.merging.merge import check_recipe, merge_tensors
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.shallow import deep_shallow_copy
from hm3rl.models.tensor_names import saved_names

PIECE = 1 << 18
"""Entries checked at once."""

ALIGNED = 64
"""Bytes to whose multiples tensors begin in the buffer."""


@dataclass(frozen=True)
class WholeMerge:
    """A merge of whole models that is written before it is a model.

    Attributes:
        task_vectors: Of the sources.
        recipe: What to do; it fits the sources.
        base: The base's model, whose form the result has.
    """

    task_vectors: TaskVectors
    recipe: MergeRecipe
    base: PreTrainedModel

    @property
    def possible(self) -> bool:
        """Whether the stored tensors are those that are merged; shared ones may be stored twice."""
        return stored_tensors(self.base).keys() == set(self.task_vectors.names)

    @torch.no_grad()
    def write(self, folder: Path, shard_bytes: int) -> tuple[int, PreTrainedModel]:
        """Write the weights, and map them.

        Args:
            folder: Where to write.
            shard_bytes: Largest file of weights, and the memory this takes.

        Returns:
            Bytes of all tensors together, and the model.

        Raises:
            InputError: The recipe does not fit the sources, or a merged tensor is not finite.
            IntegrityError: A file does not hold what was merged.
        """
        check_recipe(self.task_vectors, self.recipe)
        sizes = {name: self.task_vectors.base(name).nbytes for name in self.task_vectors.names}
        names = saved_names(self.base)
        digests: dict[str, bytes] = {}
        total = _write_merge(
            self.task_vectors,
            self.recipe,
            sizes,
            folder,
            shard_bytes,
            names,
            lambda name, tensor: digests.update({name: _digest(tensor)}),
        )
        written: dict[int, torch.Tensor] = {}
        own = {in_file: name for name, in_file in names.items()}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(str(file), framework="pt") as handle:
                for key in handle.keys():
                    tensor, name = handle.get_tensor(key), own[key]
                    if _digest(tensor) != digests.pop(name):
                        raise IntegrityError(f"{file} does not hold the {name} that was merged")
                    written[id(self.task_vectors.base(name))] = tensor
        if digests:
            raise IntegrityError(f"{folder} lacks {next(iter(digests))}, which was merged")
        return total, deep_shallow_copy(self.base, written)


def _digest(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).digest()


def _write_merge(
    task_vectors: TaskVectors,
    recipe: MergeRecipe,
    sizes: Mapping[str, int],
    folder: Path,
    shard_bytes: int,
    names_in_files: Mapping[str, str],
    merged_one: Callable[[str, torch.Tensor], None] | None = None,
) -> int:
    """Merge and write shard by shard.

    Args:
        task_vectors: Of the sources.
        recipe: What to do; it fits the sources.
        sizes: Bytes of each tensor, by name.
        folder: Where to write.
        shard_bytes: Largest file.
        names_in_files: By the model's name of a tensor the one it has in the files.
        merged_one: Hears of every merged tensor.

    Returns:
        Bytes of all tensors together.

    Raises:
        InputError: A merged tensor is not finite.
    """
    # One buffer for all shards: memory freed and taken anew would pile up as fragments.
    shards = split_shards(sizes, shard_bytes).filename_to_tensors.values()
    largest = max(sum(sizes[name] + ALIGNED for name in names) for names in shards)
    buffer = torch.empty(largest, dtype=torch.uint8)

    def produce(names: Sequence[str]) -> Mapping[str, torch.Tensor]:
        room = _carve(buffer, {name: task_vectors.base(name) for name in names})
        merged = merge_tensors(task_vectors, recipe, names, room)
        for name, tensor in merged.items():
            # In pieces, because isfinite takes several times its argument's memory.
            if not all(bool(torch.isfinite(t).all()) for t in tensor.view(-1).split(PIECE)):
                raise InputError(
                    f"the merged tensor {name} holds NaN or infinite weights",
                    "a source's tensor does, or the recipe's weights are too large",
                )
            if merged_one is not None:
                merged_one(name, tensor)
        return merged

    return write_shards(sizes, produce, folder, shard_bytes, names_in_files)


def _carve(buffer: torch.Tensor, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Cut tensors of the same shapes and types out of a buffer of bytes."""
    room = {}
    start = 0
    for name, tensor in like.items():
        room[name] = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        start += -(-tensor.nbytes // ALIGNED) * ALIGNED
    return room

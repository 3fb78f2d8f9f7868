"""Merging from files to files, for sources that do not fit into memory together or at all.

Tensors are merged shard by shard and written at once. What is in memory: one shard of the result,
the kept statistics of the task vectors (bounded), and a few megabytes of work for each thread; the
sources are mapped, not read into memory. Every tensor is checked for finite values.

`WholeMerge` does this for `hm3rl merge` with the sources of a pool, and hands back the result as a
model whose weights are mapped from the files, once they are known to be what was merged.
`merge_streamed` needs no pool; its result is not reloaded and run, as other exports are.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors import safe_open
from transformers import PreTrainedModel

from hm3rl.errors import InputError, IntegrityError
from hm3rl.export.partial import partial_folder, remove_leavings
from hm3rl.export.reload import check_names
from hm3rl.export.sources import widest
from hm3rl.export.weights import (
    DEFAULT_SHARD_BYTES,
    copy_tokenizer,
    split_shards,
    stored_tensors,
    write_shards,
)
from hm3rl.merging.merge import check_recipe, merge_tensors
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import DEFAULT_LIMIT, TaskVectors
from hm3rl.models.shallow import deep_shallow_copy
from hm3rl.models.source import GENERATION
from hm3rl.models.streaming import StreamedSources
from hm3rl.models.tensor_names import saved_names, skeleton
from hm3rl.paths.candidate import Candidate

PIECE = 1 << 18
"""Entries checked at once."""

ALIGNED = 64
"""Bytes to whose multiples tensors begin in the buffer."""

WORK_BYTES = 12 * 2**20
"""Memory set aside for the work of one thread."""


@torch.no_grad()
def merge_streamed(
    sources: StreamedSources,
    recipe: MergeRecipe,
    to: Path,
    *,
    limit_bytes: int = DEFAULT_LIMIT,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> int:
    """Merge sources from their files into a plain checkpoint, in the base's stored precision.

    Args:
        sources: Base and experts.
        recipe: What to do.
        to: Folder to write; must not exist.
        limit_bytes: Memory for all but the shard in work: `WORK_BYTES` for each thread, the rest
            for kept statistics of task vectors.
        shard_bytes: Largest file of weights.

    Returns:
        Bytes of all tensors together.

    Raises:
        InputError: The folder exists, the recipe does not fit the sources, the disk is full or a
            merged tensor is not finite. Nothing is left behind.
        IntegrityError: The written files do not hold what such checkpoints hold.
    """
    target = to.expanduser().absolute()
    if target.exists():
        raise InputError(f"{target} exists already", "merge to another folder, or remove this one")
    kept_bytes = max(0, limit_bytes - WORK_BYTES * torch.get_num_threads())
    task_vectors = TaskVectors(sources, kept_bytes)
    check_recipe(task_vectors, recipe)
    sizes = {name: task_vectors.base(name).nbytes for name in task_vectors.names}
    remove_leavings(target)
    with partial_folder(target) as partial:
        free = shutil.disk_usage(partial).free
        if sum(sizes.values()) > free:
            raise InputError(
                f"the model needs {sum(sizes.values()) / 2**30:.2f} GiB, {target.parent} has "
                f"{free / 2**30:.2f} GiB free",
                "free some space or merge to another disk",
            )
        names = saved_names(skeleton(sources.config))
        total = _write_merge(task_vectors, recipe, sizes, partial, shard_bytes, names)
        _write_rest(sources, recipe, partial)
        check_names(partial, sources.config)
    return total


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
    largest = max(sum(sizes[n] + ALIGNED for n in s) for s in split_shards(sizes, shard_bytes))
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


def _write_rest(sources: StreamedSources, recipe: MergeRecipe, folder: Path) -> None:
    """Write configuration, generation configuration, tokenizer and recipe."""
    base, donor = sources.paths[sources.base_name], sources.paths[sources.tokenizer_donor]
    stored = {sources.tensors(sources.base_name)[name].dtype for name in sources.shapes}
    config = copy.deepcopy(sources.config)
    config.dtype = widest({dtype for dtype in stored if dtype.is_floating_point})
    config.save_pretrained(folder)
    if (base / GENERATION).is_file():
        shutil.copyfile(base / GENERATION, folder / GENERATION)
    copy_tokenizer(donor, folder)
    plain = {
        **Candidate.whole(recipe, sources.num_layers).to_dict(),
        "sources": {name: {"origin": str(path)} for name, path in sources.paths.items()},
        "donor": sources.tokenizer_donor,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        # safetensors writes for the owner alone; the weights are as readable as the rest.
        shutil.copymode(folder / "recipe.yaml", file)

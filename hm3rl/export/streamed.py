"""Merging from files to files, for sources that do not fit into memory together or at all.

Tensors are merged shard by shard and written at once. What is in memory: one shard of the result,
the kept statistics of the task vectors (bounded), and a few megabytes of work for each thread; the
sources are mapped, not read into memory. The result is not reloaded and run, as other exports are:
it may not fit either. Instead every written tensor is checked for finite values.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml

from hm3rl.errors import InputError
from hm3rl.export.checkpoint import TOKENIZER_FILES
from hm3rl.export.weights import DEFAULT_SHARD_BYTES, split_shards, write_shards
from hm3rl.merging.merge import check_recipe, merge_tensors
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import DEFAULT_LIMIT, TaskVectors
from hm3rl.models.streaming import StreamedSources
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
    """
    target = to.expanduser().absolute()
    if target.exists():
        raise InputError(f"{target} exists already", "merge to another folder, or remove this one")
    kept_bytes = max(0, limit_bytes - WORK_BYTES * torch.get_num_threads())
    task_vectors = TaskVectors(sources, kept_bytes)
    check_recipe(task_vectors, recipe)
    sizes = {name: task_vectors.base(name).nbytes for name in task_vectors.names}
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        free = shutil.disk_usage(partial).free
        if sum(sizes.values()) > free:
            raise InputError(
                f"the model needs {sum(sizes.values()) / 2**30:.2f} GiB, {target.parent} has "
                f"{free / 2**30:.2f} GiB free",
                "free some space or merge to another disk",
            )

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
            return merged

        total = write_shards(sizes, produce, partial, shard_bytes)
        _write_rest(sources, recipe, partial)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return total


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
    shutil.copyfile(base / "config.json", folder / "config.json")
    copied = [base / "generation_config.json"]
    copied += [file for pattern in TOKENIZER_FILES for file in sorted(donor.glob(pattern))]
    for file in copied:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    plain = {
        **Candidate.whole(recipe, sources.num_layers).to_dict(),
        "sources": {name: {"origin": str(path)} for name, path in sources.paths.items()},
        "donor": sources.tokenizer_donor,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        # safetensors writes for the owner alone; the weights are as readable as the rest.
        shutil.copymode(folder / "recipe.yaml", file)

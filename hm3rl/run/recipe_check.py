"""`hm3rl check --recipe`: what a merge needs, from configurations and file headers alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hm3rl.errors import InputError
from hm3rl.export.merge import RecipeFile, check_sources, read_recipe
from hm3rl.export.sources import stored_dtype
from hm3rl.export.weights import DEFAULT_SHARD_BYTES
from hm3rl.interop.mergekit_build import check_slices
from hm3rl.interop.mergekit_recipe import SliceMerge, slice_merges
from hm3rl.merging.blend import is_blend
from hm3rl.merging.recipe import blend_recipe, names_merge
from hm3rl.models.compatibility import check_mergeable
from hm3rl.models.names import BASE
from hm3rl.models.source import StoredTensor
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.expressible import check_one_config
from hm3rl.paths.families import layer_prefix
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.run.preflight import GIB, against, free_disk, memory_of


def copy_rate() -> float:
    """Measured bytes a second that this machine copies in memory, read and written counted once."""
    source = torch.zeros(2**24)
    target = torch.empty_like(source)
    target.copy_(source)
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < 0.1:
        target.copy_(source)
        runs += 1
    return runs * source.nbytes / (time.perf_counter() - begun)


def recipe_report(file: Path, to: Path | None = None, vocabulary: str = "refuse") -> dict[str, Any]:
    """Check a recipe file and its sources without loading a weight.

    Everything is refused that `merge_file` refuses, but for what only weights tell: content hashes,
    and numbers that are not finite.

    Args:
        file: Ours or mergekit's, see `read_recipe`.
        vocabulary: See `merge_file`.
        to: Folder the result would be written to; None: the current folder is judged.

    Returns:
        Readable facts by name.

    Raises:
        InputError: The file or a source cannot be used, or they do not fit together.
    """
    recipe = read_recipe(file)
    read = check_sources(recipe, vocabulary)
    base, adapters, configs = BASE, read.adapters, read.configs
    # An adapter is the base with other weights.
    headers = {name: read.whole.get(name, read.whole[base]).tensors for name in read.paths}
    depths = {name: int(config.num_hidden_layers) for name, config in configs.items()}
    plan = read.plan
    parts: set[tuple[str, int | None]] = set()
    notes: tuple[str, ...] = read.notes
    if recipe.mergekit is not None:
        slices = slice_merges(recipe.mergekit, depths, list(headers[base]))
        layers = [LayerRef(part.base, layer) for part in slices for layer in range(*part.layers)]
        stem = slices[0].base
        merged = [part for part in slices if part.recipe is not None]
        widths = [len(part.spans) for part in merged]
        said = [note for part in slices for note in part.notes]
        notes = tuple(dict.fromkeys((*recipe.mergekit.notes, *said, *notes)))
    else:
        assert recipe.candidate is not None
        path = recipe.candidate.path
        blends = [blend_recipe(name) for name in recipe.candidate.members if is_blend(name)]
        recipes = (*recipe.candidate.recipes, *blends)
        # A merge changes weights only: its layers are the base's.
        own = {member: base if names_merge(member) else member for member in path.members}
        layers = [LayerRef(own[member], layer) for member, layer in path.refs]
        stem, slices = own[path.stem], []
        for expert in sorted({expert for entry in recipes for expert in entry.experts}):
            check_mergeable(configs[base], configs[expert], f"expert {expert!r}")
        widths = [len(entry.weights) + 1 for entry in recipes]
        wanted: list[tuple[str, int | None]] = [(path.stem, None), *path.refs]
        parts = {part for part in wanted if names_merge(part[0])}
    for name, layer in layers:
        if layer >= depths[name]:
            raise InputError(
                f"the recipe uses layer {layer} of {name}, which has {depths[name]} layers",
                f"use layers 0 to {depths[name] - 1}",
            )
    check_one_config(LayerPath(tuple(layers), stem), configs)
    check_slices(slices, configs)
    precision, written = recipe.precisions()
    count = _result_elements(layers, headers, configs, base)
    if base in plan.untied:
        count += configs[base].vocab_size * configs[base].hidden_size  # a head of its own
    taken = sum(_elements(headers[name].values()) for name in headers) * precision.itemsize
    # Files in the precision of the merge are mapped: their pages are the system's to drop.
    held = [
        name
        for name in headers
        if plan.notes or name in adapters or stored_dtype(read.whole[name].folder) != precision
    ]
    sources = sum(_elements(headers[name].values()) for name in held) * precision.itemsize
    members = count
    if not recipe.mergekit:
        members = sum(_part_elements(headers[base], configs[base], layer) for _, layer in parts)
    copied = bool(widths) or any(part.scales for part in slices)
    merging = members * precision.itemsize if copied else 0
    if _is_whole_merge(recipe, slices, depths[base]) and written == precision:
        merging = min(merging, DEFAULT_SHARD_BYTES)  # written shard by shard
    largest = max(tensor.elements for tensor in headers[base].values())
    # One tensor at a time: base and task vectors in fp32, and the result.
    working = 4 * largest * (max(widths, default=0) + 1)
    again = count * written.itemsize if written != precision else 0
    peak = sources + merging + working + again
    disk = count * written.itemsize
    root, free = free_disk(to or Path())
    rate = copy_rate()
    moved = taken + 3 * disk
    return {
        "compatible": f"yes: {', '.join(_shown(recipe))}",
        "layers": len(layers),
        "parameters": f"{count:,}",
        "precision": f"merged in {_name(precision)}, written in {_name(written)}",
        "memory": f"{peak / GIB:.2f} GiB at most beside mapped files (sources {sources / GIB:.2f}, "
        f"merged {merging / GIB:.2f}, one tensor's task vectors {working / GIB:.2f}, in another "
        f"precision {again / GIB:.2f}); {against(peak, memory_of('cpu'), 'the machine has')}",
        "disk": f"{disk / GIB:.3f} GiB; {against(disk, free, f'free in {root}:')}",
        "time": f"at least {moved / rate:.2g} s: {moved / GIB:.2f} GiB read, merged, written and "
        f"read again at {rate / 1e9:.1f} GB/s, the rate of a copy in memory measured here; disks "
        "are slower, and the reload check runs the model",
        **{f"note {number}": note for number, note in enumerate(notes, start=1)},
    }


def _is_whole_merge(recipe: RecipeFile, slices: Sequence[SliceMerge], depth: int) -> bool:
    """Whether all there is to do is one merge, whose result is written as it is made."""
    if recipe.candidate is None:
        return len(slices) == 1 and slices[0].recipe is not None and not slices[0].others
    recipes = recipe.candidate.recipes
    return len(recipes) == 1 and recipe.candidate == Candidate.whole(recipes[0], depth)


def _result_elements(
    layers: Iterable[tuple[str, int]],
    headers: Mapping[str, Mapping[str, StoredTensor]],
    configs: Mapping[str, Any],
    base: str,
) -> int:
    """Count the parameters of the result: its layers, and the rest of one source."""
    inside = 0
    for name, layer in layers:
        prefix = layer_prefix(configs[name], layer)
        inside += sum(t.elements for key, t in headers[name].items() if key.startswith(prefix))
    prefixes = tuple(layer_prefix(configs[base], n) for n in range(configs[base].num_hidden_layers))
    rest = [t for key, t in headers[base].items() if not key.startswith(prefixes)]
    return inside + _elements(rest)


def _part_elements(header: Mapping[str, StoredTensor], config: Any, layer: int | None) -> int:
    """Count the parameters of a layer, or of what lies outside the layers."""
    if layer is not None:
        prefix = layer_prefix(config, layer)
        return sum(t.elements for key, t in header.items() if key.startswith(prefix))
    inside = range(int(config.num_hidden_layers))
    return _elements(header.values()) - sum(_part_elements(header, config, one) for one in inside)


def _elements(tensors: Iterable[StoredTensor]) -> int:
    return sum(tensor.elements for tensor in tensors)


def _shown(recipe: RecipeFile) -> list[str]:
    return [f"{name} = {source}" for name, source in recipe.sources.items()]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

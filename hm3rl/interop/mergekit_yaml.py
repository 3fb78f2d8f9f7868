"""Candidates as mergekit configurations and back, where both describe exactly the same model.

mergekit differs from this package in what matters here: its random masks are others, it takes the
embedding from the first and final norm and head from the last slice, and it does not gather
per-layer configuration lists. What these touch is refused with a reason rather than written wrong.
`hm3rl merge` runs more than a candidate can say: see `mergekit_build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hm3rl.errors import InputError
from hm3rl.interop.mergekit_file import METHODS, MergekitFile, read_mergekit
from hm3rl.interop.mergekit_recipe import BASELESS, slice_merges
from hm3rl.merging.blend import is_blend
from hm3rl.merging.profile import BLOCKS, Place, Profile
from hm3rl.merging.recipe import MERGED_PREFIX, MergeRecipe
from hm3rl.merging.traits import traits_of
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import named_tensors
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import STEM_HEAD, Candidate
from hm3rl.paths.families import PER_LAYER_LISTS, family_of
from hm3rl.paths.layer_path import LayerPath, LayerRef

METHOD_OF = {method.operator: name for name, method in METHODS.items()}
"""mergekit's name of each of our operators that it has."""


def public_name(pool: ModelPool, name: str) -> str:
    """Name a source for the outside: its hub id if it lies in the hub's cache, else its folder."""
    for part in pool.paths[name].parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return str(pool.paths[name])


def _model(pool: ModelPool, name: str) -> str:
    """Name a source as mergekit does, which writes an adapter as BASE+ADAPTER."""
    alone = public_name(pool, name)
    return f"{public_name(pool, pool.base_name)}+{alone}" if name in pool.adapters else alone


def from_mergekit(plain: Mapping[str, Any], pool: ModelPool) -> Candidate:
    """Read a configuration as a candidate over the sources of a pool.

    Args:
        plain: Content of the YAML file.
        pool: Sources among which the file's models are looked up, by folder, origin or hub id.

    Returns:
        A whole merge of sources, or a path through them.

    Raises:
        InputError: The file cannot be read, names a model outside the pool, or describes what no
            candidate can be.
    """
    file = _over_pool(read_mergekit(plain), pool)
    depths = {name: int(pool.model(name).config.num_hidden_layers) for name in file.sources}
    slices = slice_merges(file, depths, list(named_tensors(pool.model(pool.base_name))))
    if any(part.scales for part in slices):
        raise _no_candidate("it scales tensors")
    if all(part.recipe is None for part in slices):
        refs = [LayerRef(part.base, layer) for part in slices for layer in range(*part.layers)]
        if slices[0].base != slices[-1].base:
            raise _no_candidate("its embedding and its final norm come from different models")
        return Candidate(LayerPath(tuple(refs), slices[0].base))
    part = slices[0]
    if len(slices) > 1 or part.recipe is None or part.layers != (0, pool.num_layers):
        raise _no_candidate("it stacks merges of parts of the models")
    if part.others:
        raise _no_candidate("its filters single out tensors of a block")
    if pool.base_name in part.recipe.experts:
        raise _no_candidate("it weighs the pool's base like an expert")
    return Candidate.whole(part.recipe, pool.num_layers)


def _no_candidate(reason: str) -> InputError:
    return InputError(
        f"this mergekit file is no candidate of a search: {reason}", "hm3rl merge FILE DIR makes it"
    )


def _over_pool(file: MergekitFile, pool: ModelPool) -> MergekitFile:
    """Rename a file's sources to those of a pool."""
    names: dict[str, str] = {}
    for name, reference in file.sources.items():
        own = [
            n
            for n in (*pool.expert_names, pool.base_name)
            if reference
            in (_model(pool, n), public_name(pool, n), str(pool.paths[n]), pool.origins[n])
        ]
        if not own:
            raise InputError(
                f"the model {reference} is no source of this pool",
                f"sources: {', '.join(str(pool.paths[n]) for n in pool.names)}",
            )
        names[name] = own[0]
    origin = file.slices[0].base
    if origin is not None and file.method not in BASELESS and names[origin] != pool.base_name:
        raise InputError(
            f"base_model is {file.sources[origin]}, the pool's base is "
            f"{public_name(pool, pool.base_name)}",
            "task vectors must start from the pool's base",
        )
    slices = tuple(
        replace(
            part,
            base=None if part.base is None else names[part.base],
            sources=tuple(replace(s, name=names[s.name]) for s in part.sources),
        )
        for part in file.slices
    )
    sources = {names[name]: reference for name, reference in file.sources.items()}
    return replace(file, sources=sources, slices=slices)


def to_mergekit(candidate: Candidate, pool: ModelPool) -> dict[str, Any]:
    """Convert a candidate.

    Args:
        candidate: A whole merged member, or a path through sources.
        pool: The sources.

    Returns:
        The content of a mergekit configuration file.

    Raises:
        InputError: mergekit cannot express this candidate; says why.
    """
    dtype = str(pool.dtype).removeprefix("torch.")
    if candidate.head != STEM_HEAD:
        raise _inexpressible("its head comes from another member than its stem")
    if candidate.alignment != "none":
        raise _inexpressible("it is aligned")
    if pool.changed:
        raise _inexpressible(f"the vocabulary or head of {pool.changed[0]} was changed for it")
    if pool.matched:
        raise _inexpressible(f"the units of {pool.matched[0]} were put into the base's order")
    if any(map(is_blend, candidate.members)):
        return {**_blends(candidate, pool), "dtype": dtype}
    if not candidate.recipes:
        return {**_slices(candidate.path, pool), "dtype": dtype}
    (recipe, *others) = candidate.recipes
    if others or candidate.path != LayerPath.whole(recipe.name, pool.num_layers):
        raise _inexpressible("its path runs through merged members")
    return {**_merge(recipe, pool), "dtype": dtype}


def _blends(candidate: Candidate, pool: ModelPool) -> dict[str, Any]:
    """Layers that are blended one by one: task arithmetic with a weight for each.

    A gradient has an anchor for each layer, so that nothing lies between two.
    """
    space = BlendSpace(pool.mergeable, pool.num_layers, np.inf)
    rows = space.encode(candidate)
    if rows is None:
        raise _inexpressible("it blends layers, and is not made of blends in the model's order")
    container = f".{family_of(pool.config).layers}."
    models = []
    for expert, (stem, *layers) in zip(space.experts, rows.T.tolist(), strict=True):
        if any((stem, *layers)):
            weight = [{"filter": container, "value": layers}, {"value": stem}]
            models.append({"model": _model(pool, expert), "parameters": {"weight": weight}})
    return {
        "merge_method": METHOD_OF["task_arithmetic"],
        "base_model": public_name(pool, pool.base_name),
        "models": models,
        "parameters": {"normalize": False, "lambda": 1.0},
    }


def _inexpressible(reason: str) -> InputError:
    return InputError(f"mergekit cannot express this candidate: {reason}", "use recipe.yaml")


def _slices(path: LayerPath, pool: ModelPool) -> dict[str, Any]:
    assert not any(member.startswith(MERGED_PREFIX) for member in path.members)
    if not path.stem == path.refs[0].member == path.refs[-1].member:
        raise _inexpressible(
            "mergekit takes the embedding from the first and the norm from the last slice, "
            f"here both come from {path.stem}"
        )
    for name in PER_LAYER_LISTS:
        entries = getattr(pool.config, name, None)
        if entries is None:
            continue
        if len(set(entries)) > 1:
            raise _inexpressible(f"the layers differ in {name}, which mergekit does not re-order")
        if path.length != len(entries):
            raise _inexpressible(
                f"it has {path.length} layers, and mergekit keeps the {len(entries)} entries of "
                f"{name}, with which transformers refuses the configuration"
            )
    slices = [
        {"sources": [{"model": _model(pool, member), "layer_range": [first, end]}]}
        for member, first, end in path.runs()
    ]
    return {"merge_method": "passthrough", "slices": slices}


def _merge(recipe: MergeRecipe, pool: ModelPool) -> dict[str, Any]:
    traits = traits_of(recipe.operator)
    thinned = traits.random and any(recipe.density_of(e) < 1.0 for e in recipe.experts)
    if thinned or recipe.operator not in METHOD_OF or not recipe.weights:
        why = "random masks are not reproducible across tools" if thinned else "no such method"
        raise _inexpressible(f"{recipe.operator}: {why}")
    method = METHOD_OF[recipe.operator]
    plain: dict[str, Any] = {"merge_method": method}
    if METHODS[method].base and recipe.operator != "slerp":
        plain["base_model"] = public_name(pool, pool.base_name)
    if recipe.operator == "slerp":
        first, second = recipe.experts
        plain["base_model"] = _model(pool, first)
        plain["models"] = [{"model": _model(pool, e)} for e in (first, second)]
        plain["parameters"] = {"t": _by_filter(_fraction(recipe, pool.num_layers), pool)}
        return plain
    if recipe.operator == "karcher" and len({w for _, w in recipe.weights}) > 1:
        raise _inexpressible("karcher: mergekit's weights are equal")
    weights: dict[str, float | Profile] = {**dict(recipe.weights), **dict(recipe.weight_profiles)}
    densities: dict[str, float | Profile] = {e: recipe.density_of(e) for e in recipe.experts}
    densities.update(recipe.density_profiles)
    plain["models"] = []
    for expert in recipe.experts:
        own: dict[str, Any] = {}
        if "weight" in METHODS[method].by_model:
            own["weight"] = _by_filter(weights[expert], pool)
        if traits.density:
            own["density"] = _by_filter(densities[expert], pool)
        for key in ("epsilon", "gamma"):
            value = getattr(recipe, key)
            if value is not None and recipe.density_of(expert) < 1.0:
                own[key] = value
        entry: dict[str, Any] = {"model": _model(pool, expert)}
        plain["models"].append({**entry, "parameters": own} if own else entry)
    shared: dict[str, Any] = {}
    if "normalize" in METHODS[method].shared:
        shared["normalize"] = bool(recipe.normalise)
    if "lambda" in METHODS[method].shared:
        shared["lambda"] = recipe.scale
    return {**plain, "parameters": shared} if shared else plain


def _fraction(recipe: MergeRecipe, layers: int) -> float | Profile:
    """The way from the first to the second expert of a slerp, for each block."""
    (_, near), (_, far) = recipe.weights
    if not recipe.weight_profiles:
        return far / (near + far)
    blocks = []
    for block in BLOCKS:
        pairs = [recipe.weights_at(Place(block, layer, layers)) for layer in range(layers)]
        if any(near + far == 0 for near, far in pairs):
            raise _inexpressible(f"slerp: both weights are zero somewhere in the block {block}")
        blocks.append(tuple(far / (near + far) for near, far in pairs))
    own = [profile for _, profile in recipe.weight_profiles]
    if len(own) == 2 and all(_complementary(own[0], own[1], block) for block in BLOCKS):
        return own[1]
    return Profile(*blocks)


def _complementary(near: Profile, far: Profile, block: str) -> bool:
    pairs = (getattr(near, block), getattr(far, block))
    return len(pairs[0]) == len(pairs[1]) and all(
        abs(a + b - 1.0) < 1e-9 for a, b in zip(*pairs, strict=True)
    )


def _by_filter(value: float | Profile, pool: ModelPool) -> Any:
    """Write a number, or a profile as a gradient, or as filters that select the blocks."""
    plain = value.plain() if isinstance(value, Profile) else value
    if not isinstance(plain, dict):
        return plain
    filters = {"attention": f".{family_of(pool.config).attention}.", "mlp": ".mlp."}
    chosen = [{"filter": filters[b], "value": v} for b, v in plain.items() if b != "rest"]
    return [*chosen, {"value": plain["rest"]}]

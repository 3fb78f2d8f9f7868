"""Candidates as mergekit configurations, where mergekit can express exactly the same model.

mergekit differs from this package in three ways that matter here: its random masks are others, it
takes embedding from the first and final norm and head from the last slice, and it does not gather
per-layer configuration lists. What these touch is refused with a reason rather than written wrong.
"""

from __future__ import annotations

from typing import Any

from hm3rl.errors import InputError
from hm3rl.merging.recipe import MERGED_PREFIX, OPERATOR_TRAITS, MergeRecipe
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import STEM_HEAD, Candidate
from hm3rl.paths.families import PER_LAYER_LISTS
from hm3rl.paths.layer_path import LayerPath


def public_name(pool: ModelPool, name: str) -> str:
    """Name a source for the outside: its hub id if it lies in the hub's cache, else its folder."""
    for part in pool.paths[name].parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return str(pool.paths[name])


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
    if not candidate.recipes:
        return {**_slices(candidate.path, pool), "dtype": dtype}
    (recipe, *others) = candidate.recipes
    if others or candidate.path != LayerPath.whole(recipe.name, pool.num_layers):
        raise _inexpressible("its path runs through merged members")
    return {**_merge(recipe, pool), "dtype": dtype}


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
        if entries is not None and len(set(entries)) > 1:
            raise _inexpressible(f"the layers differ in {name}, which mergekit does not re-order")
    slices = [
        {"sources": [{"model": public_name(pool, member), "layer_range": [first, end]}]}
        for member, first, end in path.runs()
    ]
    return {"merge_method": "passthrough", "slices": slices}


def _merge(recipe: MergeRecipe, pool: ModelPool) -> dict[str, Any]:
    traits = OPERATOR_TRAITS[recipe.operator]
    thinned = traits.random and any(recipe.density_of(e) < 1.0 for e in recipe.experts)
    if thinned or recipe.operator == "hm3_eq5" or not recipe.weights:
        why = "random masks are not reproducible across tools" if thinned else "no such method"
        raise _inexpressible(f"{recipe.operator}: {why}")
    if recipe.operator == "slerp":
        first, second = recipe.experts
        weights = dict(recipe.weights)
        return {
            "merge_method": "slerp",
            "base_model": public_name(pool, first),
            "models": [{"model": public_name(pool, e)} for e in (first, second)],
            "parameters": {"t": weights[second] / (weights[first] + weights[second])},
        }
    models = []
    for expert, weight in recipe.weights:
        parameters: dict[str, Any] = {"weight": weight}
        if traits.density:
            parameters["density"] = recipe.density_of(expert)
        models.append({"model": public_name(pool, expert), "parameters": parameters})
    plain: dict[str, Any] = {
        "merge_method": recipe.operator,
        "models": models,
        "parameters": {"normalize": bool(recipe.normalise)},
    }
    if recipe.operator != "linear":
        plain["base_model"] = public_name(pool, pool.base_name)
        plain["parameters"]["lambda"] = recipe.scale
    return plain

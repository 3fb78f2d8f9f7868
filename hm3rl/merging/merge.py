"""The one place that walks tensors: from a recipe to merged weights, and to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from hm3rl import registry
from hm3rl.errors import InputError
from hm3rl.merging.kernels import fused
from hm3rl.merging.operators import Operator, TensorMerge
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.survival import Survival
from hm3rl.merging.task_vectors import TaskVectors, band
from hm3rl.merging.threads import in_threads
from hm3rl.merging.traits import traits_of
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import deep_shallow_copy

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def merge_state(task_vectors: TaskVectors, recipe: MergeRecipe) -> dict[str, torch.Tensor]:
    """Merge all tensors of the model.

    Accumulates in fp32 and casts once to the pool's precision. Integer tensors are the base's.
    A recipe without any weight gives the base. On the CPU tensors are spread over
    `torch.get_num_threads()` threads; the result does not depend on how many.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do.

    Returns:
        New tensor by name, one for each stored tensor; tied weights appear once.

    Raises:
        InputError: The recipe weighs an expert the pool does not have, or weights that the operator
            divides by their sum have none at some place.
    """
    check_recipe(task_vectors, recipe)
    return merge_tensors(task_vectors, recipe, task_vectors.names)


def merge_tensors(
    task_vectors: TaskVectors,
    recipe: MergeRecipe,
    names: Sequence[str],
    out: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Merge some tensors, as `merge_state` does, with a recipe that passed `check_recipe`.

    Args:
        task_vectors: The cached task vectors.
        recipe: What to do.
        names: Names of the tensors.
        out: Where to put them: contiguous tensors of the base's shape and precision by name.

    Returns:
        Merged tensor by name, new unless `out` is given.
    """
    room = dict(out or {name: _like(task_vectors.base(name)) for name in names})
    on_cpu = all(tensor.device.type == "cpu" for tensor in room.values())
    # Room is made here and not in the threads, whose memory pools would keep what is freed.
    in_threads(
        lambda name: merge_tensor(task_vectors, recipe, name, room[name]),
        names,
        size=lambda name: task_vectors.base(name).numel() if on_cpu else 0,
    )
    return room


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def check_recipe(task_vectors: TaskVectors, recipe: MergeRecipe) -> None:
    """Refuse recipes that cannot be carried out on these sources.

    Raises:
        InputError: The recipe weighs an expert the pool does not have, or weights that the operator
            divides by their sum have none at some place.
    """
    check_experts(task_vectors, recipe)
    places = task_vectors.mergeable if recipe.varies else task_vectors.mergeable[:1]
    for name in places:
        recipe.check_sum(recipe.weights_at(task_vectors.place(name)), f"at {name} the")


def check_experts(task_vectors: TaskVectors, recipe: MergeRecipe) -> None:
    """Refuse recipes about other experts.

    Raises:
        InputError: Names the first unknown expert and the known ones.
    """
    known = task_vectors.pool.expert_names
    for expert in recipe.experts:
        if expert not in known:
            raise InputError(
                f"the merge recipe weighs {expert!r}, which is no expert of the pool",
                f"experts: {', '.join(known)}",
            )


@torch.no_grad()
def merge_tensor(
    task_vectors: TaskVectors, recipe: MergeRecipe, name: str, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Merge one tensor.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do.
        name: Name of the tensor.
        out: Where to put it, contiguous, of the base's shape and precision; None: a new tensor.

    Returns:
        The merged tensor in the pool's precision.
    """
    stored = task_vectors.base(name)
    merged = _like(stored) if out is None else out
    if not recipe.weights or name not in task_vectors.mergeable:
        return merged.copy_(stored)
    experts = task_vectors.stored(name, recipe.experts)
    if fused is not None and recipe.operator in fused.FUSED and fused.reads(stored, *experts):
        settings = _of_tensor(task_vectors, recipe, name, 1)
        fused.merge(recipe.operator, stored, experts, merged.view(-1), **settings)
        return merged
    operator: Operator = registry.find("operator", recipe.operator).load()
    # A random window depends on the ranks in a row.
    row = stored.shape[-1] if recipe.epsilon and stored.dim() else 1
    pieces = task_vectors.pieces(name, recipe.experts, row)
    of_tensor = _of_tensor(task_vectors, recipe, name, row)
    flat = merged.view(-1)
    for start, stop in pieces.bounds():
        base, deltas = pieces.load(start, stop)
        flat[start:stop].copy_(operator(TensorMerge(base, deltas, **of_tensor)))
    return merged


def _of_tensor(
    task_vectors: TaskVectors, recipe: MergeRecipe, name: str, row: int
) -> dict[str, Any]:
    """Settings of an operator that are the same for all pieces of a tensor."""
    experts, traits = recipe.experts, traits_of(recipe.operator)
    device, place = task_vectors.base(name).device, task_vectors.place(name)
    densities = recipe.densities_at(place)
    settings: dict[str, Any] = {
        "weights": torch.tensor(recipe.weights_at(place), device=device),
        "densities": torch.tensor(densities, device=device),
        "scale": recipe.scale,
        "normalise": bool(recipe.normalise),
    }
    if traits.trims:
        entries = task_vectors.base(name).numel()
        bands = [band(entries, density, recipe.gamma) for density in densities]
        ranks = list(zip(experts, bands, strict=True))
        settings["smallest"] = [task_vectors.magnitude(name, e, last) for e, (_, last) in ranks]
        if recipe.gamma:
            settings["largest"] = [task_vectors.magnitude(name, e, one) for e, (one, _) in ranks]
    if traits.random:
        settings["survival"] = [
            Survival(density, recipe.epsilon or 0.0, recipe.seed, name, expert, row)
            for expert, density in zip(experts, densities, strict=True)
        ]
    if traits.gram:
        rows = [0, *(1 + task_vectors.pool.expert_names.index(expert) for expert in experts)]
        settings["gram"] = task_vectors.gram(name)[rows][:, rows]
    return settings


@torch.no_grad()
def merged_module(
    task_vectors: TaskVectors, recipe: MergeRecipe, module: M, layer: int | None
) -> M:
    """Merge one part of a model: what lies outside the layers, or one layer.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do; it passed `check_recipe`.
        module: The base's model, or its layer.
        layer: Index of the layer; None: what lies outside.

    Returns:
        A copy of the module that shares no floating-point weight of that part with the sources; of
        a whole model the layers are the base's still.
    """
    names = [name for name in task_vectors.names if task_vectors.place(name).layer == layer]
    state = merge_tensors(task_vectors, recipe, names)
    return deep_shallow_copy(module, {id(task_vectors.base(n)): t for n, t in state.items()})


def merged_model(task_vectors: TaskVectors, recipe: MergeRecipe) -> PreTrainedModel:
    """Build a model with merged weights on the base's module tree; nothing but weights is copied.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do.

    Returns:
        A model that shares no floating-point weight with the sources, in evaluation mode.
    """
    pool = task_vectors.pool
    assert isinstance(pool, ModelPool), "only a resident pool has models"
    base = pool.model(pool.base_name)
    state = merge_state(task_vectors, recipe)
    return deep_shallow_copy(base, {id(task_vectors.base(n)): t for n, t in state.items()})


@torch.no_grad()
def distance_from_base(task_vectors: TaskVectors, recipe: MergeRecipe) -> float:
    """Mean absolute change of a weight, ||theta - theta_base||_1 / n (MM-MO's sparsity term).

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to merge.

    Returns:
        The mean over all floating-point weights, >= 0, in units of weights.
    """
    total, count = 0.0, 0
    for name in task_vectors.mergeable:
        base = task_vectors.base(name).float()
        merged = merge_tensor(task_vectors, recipe, name).float()
        total += (merged - base).abs().sum(dtype=torch.float64).item()
        count += base.numel()
    return total / count

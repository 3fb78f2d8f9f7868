"""The one place that walks tensors: from a recipe to merged weights, and to a model."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.merging.operators import DROPPING, GEOMETRIC, OPERATORS, TRIMMING, TensorMerge
from hm3rl.merging.profile import place_of
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.survival import survival_factors
from hm3rl.merging.task_vectors import TaskVectors, band
from hm3rl.models.shallow import deep_shallow_copy, named_tensors


@torch.no_grad()
def merge_state(task_vectors: TaskVectors, recipe: MergeRecipe) -> dict[str, torch.Tensor]:
    """Merge all tensors of the model.

    Accumulates in fp32 and casts once to the pool's precision. Integer tensors are the base's.
    A recipe without any weight gives the base.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do.

    Returns:
        New tensor by name, one for each stored tensor; tied weights appear once.

    Raises:
        InputError: The recipe weighs an expert the pool does not have.
    """
    check_experts(task_vectors, recipe)
    return {name: merge_tensor(task_vectors, recipe, name) for name in task_vectors.names}


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


def merge_tensor(task_vectors: TaskVectors, recipe: MergeRecipe, name: str) -> torch.Tensor:
    """Merge one tensor.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do.
        name: Name of the tensor.

    Returns:
        A new tensor in the pool's precision.

    Raises:
        InputError: Weights that the operator divides by their sum have none at this place.
    """
    stored = task_vectors.base(name)
    if not recipe.weights or name not in task_vectors.mergeable:
        return stored.clone()
    experts, operator = recipe.experts, recipe.operator
    place = place_of(name, task_vectors.num_layers)
    weights, densities = recipe.weights_at(place), recipe.densities_at(place)
    recipe.check_sum(weights, f"at {name} the")
    deltas = task_vectors.deltas(name)[task_vectors.rows(experts)]
    smallest = largest = survival = gram = None
    if operator in TRIMMING:
        bands = [band(stored.numel(), density, recipe.gamma) for density in densities]
        ranks = list(zip(experts, bands, strict=True))
        smallest = tuple(task_vectors.magnitude(name, e, last) for e, (_, last) in ranks)
        if recipe.gamma:
            largest = tuple(task_vectors.magnitude(name, e, first) for e, (first, _) in ranks)
    if operator in DROPPING and min(densities) < 1.0:
        factors = [
            survival_factors(delta, density, recipe.epsilon or 0.0, recipe.seed, name, expert)
            for delta, density, expert in zip(deltas, densities, experts, strict=True)
        ]
        survival = torch.stack(factors)
    if operator in GEOMETRIC:
        rows = [0, *(row + 1 for row in task_vectors.rows(experts))]
        gram = task_vectors.gram(name)[rows][:, rows]
    merged = OPERATORS[operator](
        TensorMerge(
            base=stored.float(),
            deltas=deltas,
            weights=torch.tensor(weights, device=deltas.device),
            scale=recipe.scale,
            normalise=bool(recipe.normalise),
            densities=torch.tensor(densities, device=deltas.device),
            smallest=smallest,
            largest=largest,
            survival=survival,
            gram=gram,
        )
    )
    return merged.to(stored.dtype)


def merged_model(task_vectors: TaskVectors, recipe: MergeRecipe) -> PreTrainedModel:
    """Build a model with merged weights on the base's module tree; nothing but weights is copied.

    Args:
        task_vectors: The pool's cached task vectors.
        recipe: What to do.

    Returns:
        A model that shares no floating-point weight with the sources, in evaluation mode.
    """
    base = task_vectors.pool.model(task_vectors.pool.base_name)
    state = merge_state(task_vectors, recipe)
    return deep_shallow_copy(base, {id(t): state[n] for n, t in named_tensors(base).items()})


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

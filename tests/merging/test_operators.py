"""Operators against re-derivations from the papers' formulas, entry by entry in plain Python."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hm3rl import registry
from hm3rl.merging.operators import TensorMerge
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.survival import keep_probabilities
from hm3rl.merging.task_vectors import band
from hm3rl.merging.traits import operator_names, traits_of

SHAPE = (6, 5)


def problem(
    weights=(0.5, 0.3, 0.2), *, density=1.0, gamma=0.0, scale=1.0, normalise=False, seed=0
) -> TensorMerge:
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn(len(weights), *SHAPE, generator=generator)
    first, last = band(deltas[0].numel(), density, gamma)
    ranked = deltas.abs().reshape(len(weights), -1).sort(dim=1, descending=True).values
    base = torch.randn(SHAPE, generator=generator)
    return TensorMerge(
        base=base,
        deltas=deltas,
        weights=torch.tensor(weights),
        scale=scale,
        normalise=normalise,
        densities=torch.full((len(weights),), density),
        smallest=tuple(ranked[:, last - 1].tolist()),
        largest=tuple(ranked[:, first - 1].tolist()) if gamma else None,
        survival=factors(*(torch.rand(deltas.shape, generator=generator) < density).float()),
        gram=gram_of(base, deltas),
    )


def factors(*rows: torch.Tensor) -> list[Factor]:
    return [Factor(row) for row in rows]


class Factor:
    """Survival that is known beforehand."""

    def __init__(self, factor: torch.Tensor) -> None:
        self.factor = factor

    def __call__(self, delta: torch.Tensor) -> None:
        delta.mul_(self.factor)


def gram_of(base: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    both = torch.cat([base[None], deltas]).flatten(1).double()
    return both @ both.T


def run(operator: str, t: TensorMerge) -> torch.Tensor:
    """Operators may overwrite the task vectors; the tests still need them."""
    return registry.find("operator", operator).load()(replace(t, deltas=t.deltas.clone()))


def by_entry(t: TensorMerge, rule) -> torch.Tensor:
    """Apply `rule(base, deltas, index)` to each entry, in float64."""
    out = np.zeros(SHAPE)
    for index in np.ndindex(*SHAPE):
        out[index] = rule(
            t.base[index].item(), [t.deltas[k][index].item() for k in range(len(t.weights))], index
        )
    return torch.tensor(out, dtype=torch.float32)


def check(t: TensorMerge, operator: str, rule) -> None:
    torch.testing.assert_close(run(operator, t), by_entry(t, rule), atol=2e-6, rtol=2e-6)


def test_every_operator_has_traits_and_a_function():
    # Other tests add operators of their own, which are functions rather than where one stands.
    parts = [registry.find("operator", name) for name in operator_names()]
    traits = {part.name: traits_of(part.name) for part in parts if isinstance(part.target, str)}
    assert all(callable(registry.find("operator", name).load()) for name in traits)
    dropping = {"dare_linear", "dare_ties", "della_linear", "della", "hm3_eq5"}
    trimming = {"ties", "breadcrumbs", "breadcrumbs_ties"}
    assert {n for n, t in traits.items() if t.random} == dropping
    assert {n for n, t in traits.items() if t.trims} == trimming
    assert {n for n, t in traits.items() if t.density} == dropping | trimming
    geometric = {n for n, t in traits.items() if t.gram}
    assert geometric == {"slerp", "multi_slerp", "karcher", "model_stock"}
    assert not geometric & (dropping | trimming)


@pytest.mark.parametrize("normalise", [True, False])
def test_linear_is_the_weighted_mean_of_experts(normalise):
    t = problem((0.7, 0.5, 0.4), normalise=normalise)
    total = 1.6 if normalise else 1.0
    weights = [0.7, 0.5, 0.4]
    check(
        t,
        "linear",
        lambda b, d, _: sum(w * (b + x) for w, x in zip(weights, d, strict=True)) / total,
    )


def test_task_arithmetic_adds_scaled_task_vectors():
    t = problem((0.5, -0.3, 0.2), scale=1.7)
    check(t, "task_arithmetic", lambda b, d, _: b + 1.7 * (0.5 * d[0] - 0.3 * d[1] + 0.2 * d[2]))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 0.3, 0.2)])
@pytest.mark.parametrize("normalise", [True, False])
def test_ties_trims_elects_and_merges_entry_by_entry(weights, normalise):
    t = problem(weights, density=0.5, scale=0.8, normalise=normalise)
    flat = [sorted((abs(v) for v in d.flatten().tolist()), reverse=True) for d in t.deltas]
    cut = [values[int(0.5 * len(values)) - 1] for values in flat]

    def rule(base, deltas, _):
        kept = [d if abs(d) >= c else 0.0 for d, c in zip(deltas, cut, strict=True)]
        mass = sum(w * d for w, d in zip(weights, kept, strict=True))
        agree = [(w, d) for w, d in zip(weights, kept, strict=True) if d * mass > 0]
        merged = sum(w * d for w, d in agree)
        return base + 0.8 * (merged / sum(w for w, _ in agree) if agree and normalise else merged)

    check(t, "ties", rule)


def test_ties_at_equal_weights_is_the_papers_mean_over_agreeing_experts():
    t = problem((1.0, 1.0, 1.0), normalise=True)

    def rule(base, deltas, _):
        sign = math.copysign(1.0, sum(deltas))
        agree = [d for d in deltas if d * sign > 0]
        return base + sum(agree) / len(agree)

    check(t, "ties", rule)


def test_dare_linear_drops_and_rescales():
    t = problem(density=0.4, scale=1.2)

    def rule(base, deltas, index):
        kept = [d / 0.4 * bool(t.survival[k].factor[index]) for k, d in enumerate(deltas)]
        return base + 1.2 * (0.5 * kept[0] + 0.3 * kept[1] + 0.2 * kept[2])

    check(t, "dare_linear", rule)


def test_dare_ties_has_rescaling_and_division_and_hm3_eq5_has_neither():
    t = problem(density=0.6, normalise=True)
    weights = (0.5, 0.3, 0.2)

    def agreeing(deltas, index):
        kept = [d * bool(t.survival[k].factor[index]) for k, d in enumerate(deltas)]
        mass = sum(w * d for w, d in zip(weights, kept, strict=True))
        return [(w, d) for w, d in zip(weights, kept, strict=True) if d * mass > 0]

    def with_both(base, deltas, index):
        agree = agreeing(deltas, index)
        return base + (
            sum(w * d / 0.6 for w, d in agree) / sum(w for w, _ in agree) if agree else 0
        )

    check(t, "dare_ties", with_both)
    check(t, "hm3_eq5", lambda b, d, i: b + sum(w * x for w, x in agreeing(d, i)))


@pytest.mark.parametrize("operator", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_drop_the_largest_and_the_smallest(operator):
    t = problem(density=0.5, gamma=0.1, scale=1.3, normalise=True)
    ranked = [sorted((abs(v) for v in d.flatten().tolist()), reverse=True) for d in t.deltas]
    kept = [set(values[3 : 3 + 15]) for values in ranked]
    weights = (0.5, 0.3, 0.2)

    def rule(base, deltas, _):
        crumbs = [d if abs(d) in k else 0.0 for d, k in zip(deltas, kept, strict=True)]
        mass = sum(w * d for w, d in zip(weights, crumbs, strict=True))
        if operator == "breadcrumbs":
            return base + 1.3 * mass
        agree = [(w, d) for w, d in zip(weights, crumbs, strict=True) if d * mass > 0]
        return base + 1.3 * sum(w * d for w, d in agree) / (sum(w for w, _ in agree) or 1.0)

    check(t, operator, rule)


def test_keep_probabilities_rise_with_the_rank_in_the_row_and_average_to_the_density():
    delta = torch.tensor([[0.1, -3.0, 2.0, 0.5], [4.0, 0.0, -1.0, 2.0]])
    wanted = torch.tensor([[0.3, 0.7, 1.7 / 3, 1.3 / 3], [0.7, 0.3, 1.3 / 3, 1.7 / 3]])
    torch.testing.assert_close(keep_probabilities(delta, 0.5, 0.2), wanted)
    torch.testing.assert_close(keep_probabilities(delta[:, :1], 0.5, 0.2), torch.full((2, 1), 0.5))


@pytest.mark.parametrize("operator", ["della_linear", "della"])
def test_della_applies_the_survival_factors_entry_by_entry(operator):
    t = problem(normalise=True, scale=0.9)
    drawn = torch.rand(t.deltas.shape, generator=torch.Generator().manual_seed(8)) * 3
    t = replace(t, survival=factors(*torch.where(drawn < 1, 0.0, drawn)))
    weights = (0.5, 0.3, 0.2)

    def rule(base, deltas, index):
        kept = [d * t.survival[k].factor[index].item() for k, d in enumerate(deltas)]
        mass = sum(w * d for w, d in zip(weights, kept, strict=True))
        if operator == "della_linear":
            return base + 0.9 * mass
        agree = [(w, d) for w, d in zip(weights, kept, strict=True) if d * mass > 0]
        return base + 0.9 * sum(w * d for w, d in agree) / (sum(w for w, _ in agree) or 1.0)

    check(t, operator, rule)


def directions(base, deltas, weights) -> TensorMerge:
    base, deltas = torch.tensor(base), torch.tensor(deltas)
    gram = gram_of(base, deltas)
    return TensorMerge(base, deltas, torch.tensor(weights), normalise=True, gram=gram)


@pytest.mark.parametrize("operator", ["slerp", "karcher"])
def test_spheres_keep_the_norm_between_orthogonal_unit_vectors(operator):
    t = directions([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.7, 0.3])
    angle = 0.3 * math.pi / 2
    wanted = torch.tensor([math.cos(angle), math.sin(angle)])
    torch.testing.assert_close(run(operator, t), wanted)


@pytest.mark.parametrize("operator", ["slerp", "karcher"])
def test_spheres_interpolate_colinear_tensors_linearly(operator):
    t = directions([1.0, 2.0], [[0.0, 0.0], [3.0, 6.0]], [0.75, 0.25])
    torch.testing.assert_close(run(operator, t), torch.tensor([1.75, 3.5]))


def test_karcher_mean_balances_the_logarithms():
    t = problem((0.5, 0.3, 0.2))
    experts = (t.base + t.deltas).flatten(1).double()
    units = experts / experts.norm(dim=1, keepdim=True)
    merged = run("karcher", t).flatten().double()
    lengths = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64) @ experts.norm(dim=1)
    assert merged.norm().item() == pytest.approx(lengths.item(), rel=1e-6)
    point = merged / merged.norm()
    cosines = units @ point
    angles = torch.arccos(cosines)
    logs = (angles / torch.sin(angles))[:, None] * (units - cosines[:, None] * point)
    pull = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64) @ logs
    assert pull.norm().item() < 1e-6


def test_multi_slerp_is_the_mean_direction_with_the_mean_length():
    t = problem((0.5, 0.3, 0.2))
    flat = t.deltas.flatten(1).double()
    lengths = flat.norm(dim=1)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mean = weights @ (flat / lengths[:, None])
    wanted = t.base + ((weights @ lengths) * mean / mean.norm()).reshape(SHAPE).float()
    torch.testing.assert_close(run("multi_slerp", t), wanted)


def test_model_stock_goes_to_the_mean_as_far_as_the_angles_allow():
    t = problem((1.0, 1.0, 1.0))
    flat = t.deltas.flatten(1)
    pairs = [torch.cosine_similarity(x, y, dim=0) for x, y in itertools.combinations(flat, 2)]
    cosine = sum(pairs) / 3
    wanted = t.base + 3 * cosine / (1 + 2 * cosine) * t.deltas.mean(dim=0)
    torch.testing.assert_close(run("model_stock", t), wanted)


def test_opposite_task_vectors_leave_the_base():
    opposite = [[1.0, 2.0], [-1.0, -2.0]]
    for operator in ("multi_slerp", "model_stock"):
        t = directions([3.0, 1.0], opposite, [0.5, 0.5])
        torch.testing.assert_close(run(operator, t), t.base)


@pytest.mark.parametrize("operator", sorted(set(operator_names()) - {"slerp"}))
def test_experts_equal_to_the_base_give_the_base(operator):
    t = problem(normalise=True)
    silent = torch.zeros_like(t.deltas)
    t = replace(t, deltas=silent, smallest=(0.0,) * 3, gram=gram_of(t.base, silent))
    torch.testing.assert_close(run(operator, t), t.base, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("operator", ["ties", "dare_ties"])
def test_a_negative_weight_turns_a_task_vector_round(operator):
    t = problem((0.6, -0.4, 0.3))
    turned = replace(t, deltas=t.deltas * torch.tensor([1.0, -1.0, 1.0]).reshape(3, 1, 1))
    turned = replace(turned, weights=turned.weights.abs())
    torch.testing.assert_close(run(operator, t), run(operator, turned))


def test_against_mergekit_when_it_is_installed():
    merge_methods = pytest.importorskip("mergekit.merge_methods")
    sparsify = pytest.importorskip("mergekit.sparsify")
    assert merge_methods is not None
    t = problem(density=0.5, normalise=True)
    for k in range(3):
        theirs = sparsify.sparsify(
            t.deltas[k], density=0.5, method=sparsify.SparsificationMethod.magnitude
        )
        ours = torch.where(t.deltas[k].abs() >= t.smallest[k], t.deltas[k], 0.0)
        assert torch.equal(theirs, ours)


def test_against_peft_when_it_is_installed():
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    t = problem((1.0, 1.0, 1.0), density=0.5, normalise=True)
    theirs = merge_utils.ties(list(t.deltas), torch.ones(3), density=0.5)
    torch.testing.assert_close(run("ties", t) - t.base, theirs, atol=1e-6, rtol=1e-6)


def test_recipe_name_of_operator_is_checked_against_the_registry():
    for name in operator_names():
        assert MergeRecipe.of(name, {"a": 0.5, "b": 0.5}).operator == name

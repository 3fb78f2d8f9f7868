"""Operators against re-derivations from the papers' formulas, entry by entry in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hm3rl.merging.operators import DROPPING, OPERATORS, TRIMMING, TensorMerge, slerp
from hm3rl.merging.recipe import OPERATOR_TRAITS, MergeRecipe

SHAPE = (6, 5)


def problem(
    weights=(0.5, 0.3, 0.2), *, density=1.0, scale=1.0, normalise=False, seed=0
) -> TensorMerge:
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn(len(weights), *SHAPE, generator=generator)
    count = max(1, int(density * deltas[0].numel()))
    ranked = deltas.abs().reshape(len(weights), -1).sort(dim=1, descending=True).values
    return TensorMerge(
        base=torch.randn(SHAPE, generator=generator),
        deltas=deltas,
        weights=torch.tensor(weights),
        thresholds=ranked[:, count - 1],
        drop_masks=torch.rand(deltas.shape, generator=generator) < density,
        densities=torch.full((len(weights),), density),
        scale=scale,
        normalise=normalise,
    )


def by_entry(t: TensorMerge, rule) -> torch.Tensor:
    """Apply `rule(base, deltas, index)` to each entry, in float64."""
    out = np.zeros(SHAPE)
    for index in np.ndindex(*SHAPE):
        out[index] = rule(
            t.base[index].item(), [t.deltas[k][index].item() for k in range(len(t.weights))], index
        )
    return torch.tensor(out, dtype=torch.float32)


def check(t: TensorMerge, operator: str, rule) -> None:
    torch.testing.assert_close(OPERATORS[operator](t), by_entry(t, rule), atol=2e-6, rtol=2e-6)


def test_every_operator_has_traits_and_a_function():
    assert set(OPERATORS) == set(OPERATOR_TRAITS)
    assert {n for n, t in OPERATOR_TRAITS.items() if t.random} == DROPPING
    assert {n for n, t in OPERATOR_TRAITS.items() if t.density} == DROPPING | TRIMMING


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
        kept = [d / 0.4 * bool(t.drop_masks[k][index]) for k, d in enumerate(deltas)]
        return base + 1.2 * (0.5 * kept[0] + 0.3 * kept[1] + 0.2 * kept[2])

    check(t, "dare_linear", rule)


def test_dare_ties_has_rescaling_and_division_and_hm3_eq5_has_neither():
    t = problem(density=0.6, normalise=True)
    weights = (0.5, 0.3, 0.2)

    def agreeing(deltas, index):
        kept = [d * bool(t.drop_masks[k][index]) for k, d in enumerate(deltas)]
        mass = sum(w * d for w, d in zip(weights, kept, strict=True))
        return [(w, d) for w, d in zip(weights, kept, strict=True) if d * mass > 0]

    def with_both(base, deltas, index):
        agree = agreeing(deltas, index)
        return base + (
            sum(w * d / 0.6 for w, d in agree) / sum(w for w, _ in agree) if agree else 0
        )

    check(t, "dare_ties", with_both)
    check(t, "hm3_eq5", lambda b, d, i: b + sum(w * x for w, x in agreeing(d, i)))


def test_slerp_keeps_the_norm_between_orthogonal_unit_vectors():
    base = torch.zeros(2)
    t = TensorMerge(
        base, torch.eye(2), torch.tensor([0.7, 0.3]), None, None, torch.ones(2), 1.0, False
    )
    angle = 0.3 * math.pi / 2
    torch.testing.assert_close(slerp(t), torch.tensor([math.cos(angle), math.sin(angle)]))


def test_slerp_of_colinear_tensors_interpolates_linearly():
    base = torch.tensor([1.0, 2.0])
    deltas = torch.stack([torch.zeros(2), 3.0 * base])
    t = TensorMerge(base, deltas, torch.tensor([0.75, 0.25]), None, None, torch.ones(2), 1.0, False)
    torch.testing.assert_close(slerp(t), base * 1.75)


@pytest.mark.parametrize("operator", ["ties", "dare_ties", "hm3_eq5"])
def test_entries_without_any_task_vector_stay_the_base(operator):
    t = problem(normalise=True)
    silent = TensorMerge(**{**t.__dict__, "deltas": torch.zeros_like(t.deltas)})
    assert torch.equal(OPERATORS[operator](silent), t.base)


def test_against_mergekit_when_it_is_installed():
    merge_methods = pytest.importorskip("mergekit.merge_methods")
    sparsify = pytest.importorskip("mergekit.sparsify")
    assert merge_methods is not None
    t = problem(density=0.5, normalise=True)
    for k in range(3):
        theirs = sparsify.sparsify(
            t.deltas[k], density=0.5, method=sparsify.SparsificationMethod.magnitude
        )
        ours = torch.where(t.deltas[k].abs() >= t.thresholds[k], t.deltas[k], 0.0)
        assert torch.equal(theirs, ours)


def test_against_peft_when_it_is_installed():
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    t = problem((1.0, 1.0, 1.0), density=0.5, normalise=True)
    theirs = merge_utils.ties(list(t.deltas), torch.ones(3), density=0.5)
    torch.testing.assert_close(OPERATORS["ties"](t) - t.base, theirs, atol=1e-6, rtol=1e-6)


def test_recipe_name_of_operator_is_checked_against_the_registry():
    for name in OPERATORS:
        assert MergeRecipe.of(name, {"a": 0.5, "b": 0.5}).operator == name

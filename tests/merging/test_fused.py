"""The fused kernels against the operators in torch, which are checked against other programs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from hm3rl.merging import merge as merging
from hm3rl.merging import task_vectors as vectors
from hm3rl.merging.magnitudes import MagnitudeSketch
from hm3rl.merging.merge import merge_state
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.models.pool import ModelPool

if importlib.util.find_spec("numba") is None:
    pytest.skip("needs numba: pip install 'hm3rl[fast]'", allow_module_level=True)

from hm3rl.merging import fused

WEIGHTS = (("code", 0.53), ("math", 0.31), ("translation", 0.29))
"""No sum of some equals another: steps of bf16 weights would cancel exactly, and often."""
RECIPES = [
    *(
        MergeRecipe(operator, WEIGHTS, scale=scale, normalise=normalise)
        for operator in ("linear", "task_arithmetic")
        for normalise in (True, False)
        for scale in ((1.0,) if operator == "linear" else (1.0, 1.7))
    ),
    *(
        MergeRecipe(operator, WEIGHTS, density=0.3, scale=1.3, normalise=normalise)
        for operator in ("ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties")
        for normalise in (True, False)
    ),
    MergeRecipe("ties", (("code", 0.9), ("math", -0.4)), density=0.5, normalise=False),
    MergeRecipe("dare_ties", WEIGHTS, densities=(("code", 1.0), ("math", 0.1)), density=0.6),
    MergeRecipe("hm3_eq5", WEIGHTS, density=0.4),
]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def pool(request) -> ModelPool:
    experts = {name: f"zoo:{name}" for name in ("translation", "math", "code")}
    return ModelPool.load("zoo:base", experts, request.param, "cpu")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.operator}-{r.normalise}-{r.scale}")
def test_the_kernel_agrees_with_torch_to_the_last_digit_but_one(pool, recipe, monkeypatch):
    assert recipe.operator in fused.FUSED
    fast = merge_state(TaskVectors(pool), recipe)
    for module in (merging, vectors):
        monkeypatch.setattr(module, "fused", None)
    task_vectors = TaskVectors(pool)
    slow = merge_state(task_vectors, recipe)
    entries = differing = 0
    for name, expected in slow.items():
        # Every term may be off by its last digit; large ones may cancel.
        terms = task_vectors.base(name).float().abs() + 10 * task_vectors.deltas(name).abs().sum(0)
        error = (fast[name].float() - expected.float()).abs()
        off = error > 4 * torch.finfo(torch.float32).eps * terms
        if expected.dtype == torch.bfloat16:  # or fall on the other side of a rounding
            off &= error > torch.finfo(torch.bfloat16).eps * expected.float().abs()
        entries, differing = entries + off.numel(), differing + int(off.sum())
    # Where weighted task vectors cancel, the elected sign hangs on the last digit.
    assert differing <= (1e-4 * entries if recipe.operator in fused.ELECTING else 0)


def test_counted_codes_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(5000, generator=generator)
    for kind in (torch.float32, torch.bfloat16):
        b, e = base.to(kind), (base + 1e-3 * torch.randn(5000, generator=generator)).to(kind)
        delta = e.float() - b.float()
        slow = MagnitudeSketch([delta])
        quick = MagnitudeSketch([delta], count=lambda t, b=b, e=e: fused.count_codes(b, e, t))
        expected = delta.abs().sort(descending=True).values
        for rank in (1, 2, 77, 2500, 5000):
            assert quick.magnitude(rank, [delta]) == expected[rank - 1].item()
            assert quick.magnitude(rank, [delta]) == slow.magnitude(rank, [delta])


def test_weights_are_rounded_to_bf16_as_torch_does():
    values = torch.cat([torch.randn(3000), torch.tensor([0.0, -0.0, 1e38, -1e38, 1e-40])])
    zero, out = torch.zeros_like(values).bfloat16(), torch.empty(len(values)).bfloat16()
    one = {"weights": torch.ones(1), "densities": torch.ones(1), "normalise": False}
    # 1.7 times a bf16 number has to be rounded.
    expert = values.bfloat16()
    fused.merge("task_arithmetic", zero, [expert], out, scale=1.7, **one)
    expected = (expert.float() * np.float32(1.7)).bfloat16()
    assert torch.equal(out, expected)


def test_kernels_can_be_left_out():
    code = "from hm3rl.merging.kernels import fused; print(fused)"
    environment = {**os.environ, "HM3RL_KERNELS": "torch"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"

"""The fused kernels against the operators in torch, which are checked against other programs.

Stored scores answer whichever of the two merged, so the weights have to be the same bit for bit.
"""

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
from hm3rl.merging import threads
from hm3rl.merging.magnitudes import MagnitudeSketch
from hm3rl.merging.merge import merge_state
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors
from hm3rl.merging.traits import traits_of
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


def with_torch(monkeypatch) -> None:
    """Leave all merging to torch from here on, as `HM3RL_KERNELS=torch` does."""
    for module in (merging, vectors):
        monkeypatch.setattr(module, "fused", None)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The digits, so that signs of zeros count as well."""
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.operator}-{r.normalise}-{r.scale}")
def test_the_kernel_agrees_with_torch_to_the_last_bit(pool, recipe, monkeypatch):
    assert recipe.operator in fused.FUSED
    fast = merge_state(TaskVectors(pool), recipe)
    with_torch(monkeypatch)
    slow = merge_state(TaskVectors(pool), recipe)
    for name, expected in slow.items():
        assert torch.equal(bits(fast[name]), bits(expected)), name


class OneTensor:
    """A base and up to five experts of one random tensor."""

    base_name, num_layers = "base", 1

    def __init__(self, experts: int, shape: tuple[int, ...], kind: torch.dtype, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.expert_names = tuple("abcde"[:experts])
        base = torch.randn(shape, generator=generator)
        self.of = {"base": base.to(kind)}
        for name in self.expert_names:
            step = 2e-2 * torch.randn(shape, generator=generator)
            self.of[name] = (base + step).to(kind)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return {"weight": self.of[name]}


def random_recipes(operator: str, experts: tuple[str, ...], seed: int) -> list[MergeRecipe]:
    """Recipes of random weights, some of them negative, with and without normalising."""
    rng, traits = np.random.default_rng(seed), traits_of(operator)
    found = []
    for normalise in (True, False):
        weights = rng.uniform(0.05, 1.0, len(experts)).round(4)
        if not normalise and operator != "linear":
            weights *= np.where(rng.random(len(experts)) < 0.3, -1, 1)
        options = {"normalise": normalise, "seed": seed}
        if traits.density:
            options["density"] = float(rng.choice([0.1, 0.37, 1.0]))
        if traits.scale:
            options["scale"] = float(rng.choice([0.6, 1.0, 2.3]))
        if traits.gamma:
            options["gamma"] = float(rng.choice([0.01, 0.2]))
        given = dict(zip(experts, map(float, weights), strict=True))
        found.append(MergeRecipe.of(operator, given, **options))
    return found


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("operator", sorted(fused.FUSED))
def test_both_kernels_merge_alike_whatever_the_shape_the_seed_and_the_threads(
    operator, kind, monkeypatch
):
    cases = []
    for seed, shape in enumerate([(1,), (7,), (33, 65), (5, 3, 11), (2049,), (301, 1013)] * 2):
        sources = OneTensor(1 + seed % 5, shape, kind, seed)
        for recipe in random_recipes(operator, sources.expert_names, seed):
            cases.append((sources, recipe, merge_state(TaskVectors(sources), recipe)["weight"]))
    with_torch(monkeypatch)
    for worth, count in ((1, 2), (1 << 20, 2), (1 << 20, 1)):
        monkeypatch.setattr(threads, "WORTH_THREADS", worth)
        monkeypatch.setattr(vectors, "CPU_PIECE", 1 << 18 if count == 1 else 1 << 19)
        torch.set_num_threads(count)
        try:
            for sources, recipe, fast in cases:
                slow = merge_state(TaskVectors(sources), recipe)["weight"]
                assert torch.equal(bits(fast), bits(slow)), (recipe, fast.shape)
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operator", sorted(fused.FUSED))
def test_what_is_no_number_shows_in_both_kernels(operator, kind, monkeypatch):
    sources = OneTensor(3, (4099,), kind, 0)
    for expert, entry, value in (
        ("a", 5, np.nan),
        ("b", 4098, np.nan),
        ("c", 7, -np.inf),
        ("a", 9, np.inf),
    ):
        sources.of[expert][entry] = value
    density = {"density": 0.4} if traits_of(operator).density else {}
    recipe = MergeRecipe.of(operator, dict(zip("abc", (0.5, 0.3, 0.2), strict=True)), **density)
    fast = merge_state(TaskVectors(sources), recipe)["weight"]
    with_torch(monkeypatch)
    slow = merge_state(TaskVectors(sources), recipe)["weight"]
    assert torch.equal(fast.isnan(), slow.isnan())
    assert bool(fast[[5, 4098]].isnan().all())
    assert torch.equal(fast[~fast.isnan()], slow[~slow.isnan()])


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

"""Operators against mergekit's `merge_tensors` and PEFT's `merge_utils`, on random tensors.

Where a variant differs on purpose, the test says by how much. Oracles are no dependencies: without
them these tests are skipped, visibly.
"""

from __future__ import annotations

import pytest
import torch

from hm3rl.merging.merge import merge_tensor
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.survival import keep_probabilities
from hm3rl.merging.task_vectors import TaskVectors

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = (40, 24)
EXPERTS = ("a", "b", "c")
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
EVEN = {"a": 1.0, "b": 1.0, "c": 1.0}


class OneTensor:
    """Sources of a single tensor."""

    base_name, expert_names, num_layers = "base", EXPERTS, 1

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(SHAPE, generator=generator)
        self.of = {"base": base}
        for name in EXPERTS:
            self.of[name] = base + 0.5 * torch.randn(SHAPE, generator=generator)

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return {"weight": self.of[name]}


SOURCES = OneTensor()


def ours(operator: str, weights=WEIGHTS, **settings) -> torch.Tensor:
    recipe = MergeRecipe.of(operator, weights, **settings)
    return merge_tensor(TaskVectors(SOURCES), recipe, "weight")


def mergekit(method: str, based: bool = True, **parameters) -> torch.Tensor:
    merge_methods = pytest.importorskip("mergekit.merge_methods")
    names = (*(("base",) if based else ()), *EXPERTS)
    per_expert = {"weight", "density", "gamma", "epsilon"}
    given = {
        key: {name: value[name] for name in EXPERTS} if isinstance(value, dict) else value
        for key, value in parameters.items()
        if key not in per_expert or isinstance(value, dict)
    }
    given |= {
        key: dict.fromkeys(EXPERTS, value)
        for key, value in parameters.items()
        if key in per_expert and not isinstance(value, dict)
    }
    return merge_methods.merge_tensors(
        [SOURCES.of[name].clone() for name in names],
        method,
        parameters=given,
        ids=list(names),
        base_index=0 if based else None,
    )


CASES = {
    "linear": ("linear", {}, "linear", {"weight": WEIGHTS, "normalize": True, "based": False}),
    "multi_slerp": ("multi_slerp", {}, "multislerp", {"weight": WEIGHTS}),
    # mergekit stops earlier by default, within 3e-5 of the mean.
    "karcher": ("karcher", {"weights": EVEN}, "karcher", {"tol": 1e-9, "based": False}),
    "task_arithmetic": (
        "task_arithmetic",
        {"scale": 1.7},
        "task_arithmetic",
        {"weight": WEIGHTS, "lambda": 1.7},
    ),
    "ties": (
        "ties",
        {"density": 0.4, "scale": 0.8},
        "ties",
        {"weight": WEIGHTS, "density": 0.4, "lambda": 0.8},
    ),
    "ties unnormalised": (
        "ties",
        {"density": 0.4, "normalise": False},
        "ties",
        {"weight": WEIGHTS, "density": 0.4, "normalize": False},
    ),
    "breadcrumbs": (
        "breadcrumbs",
        {"density": 0.6, "gamma": 0.1},
        "breadcrumbs",
        {"weight": WEIGHTS, "density": 0.6, "gamma": 0.1},
    ),
    "breadcrumbs_ties": (
        "breadcrumbs_ties",
        {"density": 0.6, "gamma": 0.1},
        "breadcrumbs_ties",
        {"weight": WEIGHTS, "density": 0.6, "gamma": 0.1},
    ),
    "model_stock": ("model_stock", {"weights": EVEN}, "model_stock", {}),
    "dare_linear": ("dare_linear", {}, "dare_linear", {"weight": WEIGHTS}),
    "dare_ties": ("dare_ties", {"normalise": False}, "dare_ties", {"weight": WEIGHTS}),
    "della": ("della", {}, "della", {"weight": WEIGHTS}),
    "della_linear": ("della_linear", {}, "della_linear", {"weight": WEIGHTS}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_same_as_mergekit(case):
    operator, settings, method, parameters = case
    torch.testing.assert_close(
        ours(operator, **settings), mergekit(method, **parameters), atol=2e-6, rtol=2e-6
    )


def test_keep_probabilities_are_mergekits(monkeypatch):
    """DELLA's draws differ, the probabilities they are drawn with do not."""
    sparsify = pytest.importorskip("mergekit.sparsify")
    delta = SOURCES.of["a"] - SOURCES.of["base"]
    seen = []
    monkeypatch.setattr(torch, "bernoulli", lambda p: seen.append(p) or torch.ones_like(p))
    sparsify.della_magprune(delta, density=0.6, epsilon=0.2)
    torch.testing.assert_close(keep_probabilities(delta, 0.6, 0.2), seen[0])


@pytest.mark.parametrize("operator", ["dare_linear", "della_linear"])
def test_random_operators_are_unbiased_where_mergekit_keeps_the_l1_norm(operator):
    """Mean of 400 merges: ours is task arithmetic, mergekit's is off by the rescaling.

    DARE's two rescalings agree on average; MAGPRUNE prefers large entries, so that rescaling all
    survivors alike shifts the sum by about a tenth of the task vector.
    """
    exact = ours("task_arithmetic")
    size = (exact - SOURCES.of["base"]).norm()

    def error(draw) -> float:
        mean = sum(draw(seed) - exact for seed in range(400)) / 400
        return (mean.norm() / size).item()

    settings = {"density": 0.5, **({"epsilon": 0.3} if operator == "della_linear" else {})}
    assert error(lambda seed: ours(operator, seed=seed, **settings)) < 0.06
    torch.manual_seed(0)
    theirs = error(lambda seed: mergekit(operator, weight=WEIGHTS, **settings))
    assert theirs < 0.06 if operator == "dare_linear" else 0.08 < theirs < 0.3


def test_ties_against_peft_agrees_at_equal_weights_only():
    """T15: PEFT elects before it weighs, and divides by the number of experts that agree."""
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    deltas = [SOURCES.of[name] - SOURCES.of["base"] for name in EXPERTS]

    def peft(weights) -> torch.Tensor:
        merged = merge_utils.ties(deltas, torch.tensor(list(weights.values())), density=0.5)
        return SOURCES.of["base"] + merged

    torch.testing.assert_close(ours("ties", EVEN, density=0.5), peft(EVEN), atol=2e-6, rtol=0)
    apart = (ours("ties", density=0.5) - peft(WEIGHTS)).abs().max().item()
    assert apart > 0.3


@pytest.mark.parametrize("operator", ["task_arithmetic", "dare_linear"])
def test_sums_are_pefts(operator):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    deltas = [SOURCES.of[name] - SOURCES.of["base"] for name in EXPERTS]
    settings = {"density": 1.0} if operator == "dare_linear" else {}
    merged = getattr(merge_utils, operator)(
        deltas, torch.tensor(list(WEIGHTS.values())), **settings
    )
    torch.testing.assert_close(ours(operator), SOURCES.of["base"] + merged, atol=2e-6, rtol=0)

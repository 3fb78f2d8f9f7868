"""The whole way on a CUDA device, against the CPU: merging, assembly, evaluation, search, Ray.

Run with `python -m pytest -m gpu tests/gpu`; every other test runs without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hm3rl.config.schema import EvaluationSettings, TaskSettings
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.merging.merge import merge_state
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.traits import operator_names, traits_of
from hm3rl.models.pool import ModelPool
from hm3rl.paths import Candidate, LayerPath
from hm3rl.paths.assembly import assemble
from hm3rl.paths.descriptors import layer_descriptors
from hm3rl.paths.members import MemberSet
from hm3rl.run.job import SearchResult
from hm3rl.tasks.build import build_tasks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

EXPERTS = ("translation", "math", "code")
WEIGHTS = dict(zip(EXPERTS, (0.5, 0.3, 0.2), strict=True))
MERGED = MergeRecipe.of("task_arithmetic", WEIGHTS, scale=1.4)
STITCHED = Candidate.of(
    LayerPath.parse(
        f"math | math[0:2] + code[2] + {MERGED.name}[3:5] + translation[5] + math[6] + code[7]"
    ),
    [MERGED],
)


def zoo(device: str, dtype: torch.dtype = torch.float32) -> MemberSet:
    pool = ModelPool.load("zoo:base", {name: f"zoo:{name}" for name in EXPERTS}, dtype, device)
    return MemberSet(pool)


@pytest.fixture(scope="module")
def cpu() -> MemberSet:
    return zoo("cpu")


@pytest.fixture(scope="module")
def cuda() -> MemberSet:
    return zoo("cuda")


@pytest.mark.parametrize("operator", sorted(operator_names()))
def test_every_operator_merges_as_on_the_cpu(
    cpu: MemberSet, cuda: MemberSet, operator: str
) -> None:
    traits = traits_of(operator)
    weights = dict(list(WEIGHTS.items())[: traits.experts])
    recipe = MergeRecipe.of(operator, weights, **({"density": 0.6} if traits.density else {}))
    there = merge_state(cuda.task_vectors, recipe)
    for name, expected in merge_state(cpu.task_vectors, recipe).items():
        assert there[name].device.type == "cuda"
        torch.testing.assert_close(there[name].cpu(), expected, rtol=1e-4, atol=1e-6)


def test_a_stitched_path_computes_as_on_the_cpu(cpu: MemberSet, cuda: MemberSet) -> None:
    vocabulary = int(cpu.pool.config.vocab_size)
    ids = torch.randint(4, vocabulary, (4, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = assemble(STITCHED, cpu)(ids).logits
        found = assemble(STITCHED, cuda)(ids.to("cuda")).logits
    assert found.device.type == "cuda"
    assert (found.cpu() - expected).abs().max() < 1e-4 * expected.abs().max()


def test_generation_with_and_without_cache_agrees(cuda: MemberSet) -> None:
    model = assemble(STITCHED, cuda)
    ids = torch.randint(4, 40, (3, 12), generator=torch.Generator().manual_seed(1)).to("cuda")
    mask = torch.ones_like(ids)
    with_cache, without = (
        model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=10, use_cache=use_cache
        )
        for use_cache in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_descriptors_are_those_of_the_cpu(cpu: MemberSet, cuda: MemberSet) -> None:
    here, there = (layer_descriptors(members, EXPERTS, seed=0) for members in (cpu, cuda))
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


def evaluator(members: MemberSet, store: EvaluationStore) -> Evaluator:
    few = {name: TaskSettings(kind=name, search_items=60, test_items=2) for name in EXPERTS}
    tasks = build_tasks(few, EvaluationSettings(), members.pool.tokenizer)
    return Evaluator(members, tasks, store)


def test_scores_are_those_of_the_cpu_and_the_key_tells_them_apart(
    cpu: MemberSet, cuda: MemberSet, tmp_path: Path
) -> None:
    half = zoo("cuda", torch.bfloat16)
    candidates = [Candidate.whole(name, 8) for name in EXPERTS]
    candidates += [STITCHED, Candidate.whole(MERGED, 8)]
    with EvaluationStore(tmp_path / "store.sqlite") as store:
        sides = [evaluator(members, store) for members in (cpu, cuda, half)]
        conditions = [side.condition("search") for side in sides]
        assert len(set(conditions)) == 3
        assert [c.backend for c in conditions] == ["torch-cpu", "torch-cuda", "torch-cuda"]
        assert [c.dtype for c in conditions] == ["float32", "float32", "bfloat16"]
        found = [side.evaluate(candidates) for side in sides]
        assert all(side.totals.hits == 0 for side in sides)
    for here, there, low in zip(*found, strict=True):
        assert here.ok and there.ok and low.ok
        assert here.nll == pytest.approx(there.nll, rel=1e-3)
        assert here.nll == pytest.approx(low.nll, rel=0.1, abs=0.05)
        for task in EXPERTS:
            # Fp32 sums in another order may turn a near tie; bf16 rounds more of them.
            assert (here.per_item[task] != there.per_item[task]).sum() <= 1
            assert abs(here.per_item[task].mean() - low.per_item[task].mean()) <= 0.15


def test_a_candidates_score_does_not_depend_on_its_batch(cuda: MemberSet) -> None:
    candidates = [STITCHED, *(Candidate.whole(name, 8) for name in EXPERTS)]
    with EvaluationStore(":memory:") as one, EvaluationStore(":memory:") as other:
        together = evaluator(cuda, one).evaluate(candidates)
        apart = evaluator(cuda, other)
        for candidate, wanted in zip(candidates, together, strict=True):
            (alone,) = apart.evaluate([candidate])
            for task in EXPERTS:
                assert np.array_equal(alone.per_item[task], wanted.per_item[task])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_short_search(searched: Callable[..., SearchResult], dtype: str) -> None:
    result = searched("budget=16", "pool.device=cuda", f"pool.dtype={dtype}")
    summary = result.summary
    assert summary["evaluations"] == 16 and summary["failed"] == 0
    assert summary["hypervolume"]["search"] >= summary["hypervolume"]["sources_search"]
    assert result.problem.evaluator.condition("search").backend == "torch-cuda"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ray_worker_takes_the_gpu(
    searched: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    words = ["evaluation/backend=ray", "evaluation.workers=1", "pool.device=cuda", "threads=1"]
    there, here = searched("budget=12", *words), searched("budget=12", "pool.device=cuda")
    assert there.folder.front.read_text() == here.folder.front.read_text()

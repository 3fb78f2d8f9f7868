"""Merging whole models: completeness, determinism, precision."""

from __future__ import annotations

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.merging.merge import distance_from_base, merge_state, merged_model
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.task_vectors import TaskVectors, drop_mask
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import named_tensors


@pytest.fixture(scope="module")
def vectors(tiny_pool) -> TaskVectors:
    return TaskVectors(tiny_pool)


def test_all_of_one_expert_is_that_expert(vectors, tiny_pool):
    state = merge_state(vectors, MergeRecipe.of("linear", {"b": 1.0}))
    expert = named_tensors(tiny_pool.model("b"))
    assert state.keys() == expert.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expert[name], atol=1e-6, rtol=1e-6)


def test_no_weight_gives_the_base_exactly(vectors, tiny_pool):
    state = merge_state(vectors, MergeRecipe.of("task_arithmetic", {}))
    for name, tensor in named_tensors(tiny_pool.model("base")).items():
        assert torch.equal(state[name], tensor)
        assert state[name].data_ptr() != tensor.data_ptr()


def test_merged_model_shares_no_weight_and_keeps_ties(vectors, tiny_pool):
    model = merged_model(vectors, MergeRecipe.of("ties", {"a": 1, "b": 1, "c": 1}, density=0.5))
    sources = {
        tensor.data_ptr() for n in tiny_pool.names for tensor in tiny_pool.model(n).parameters()
    }
    assert not sources & {tensor.data_ptr() for tensor in model.parameters()}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.state_dict().keys() == tiny_pool.model("base").state_dict().keys()
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("operator", ["dare_linear", "dare_ties", "hm3_eq5"])
def test_random_operators_do_not_depend_on_the_order_of_calls(operator, tiny_pool):
    recipe = MergeRecipe.of(operator, {"a": 0.5, "c": 0.5}, density=0.5, seed=3)
    first = merge_state(TaskVectors(tiny_pool), recipe)
    torch.rand(17)
    warm = TaskVectors(tiny_pool)
    merge_state(warm, MergeRecipe.of(operator, {"b": 1.0}, density=0.2, seed=9))
    second = merge_state(warm, recipe)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = merge_state(warm, MergeRecipe.of(operator, {"a": 0.5, "c": 0.5}, density=0.5, seed=4))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_drop_masks_keep_the_right_share_and_differ_by_tensor_and_model():
    mask = drop_mask((200, 200), 0.3, 0, "t", "m")
    assert mask.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(mask, drop_mask((200, 200), 0.3, 0, "u", "m"))
    assert not torch.equal(mask, drop_mask((200, 200), 0.3, 0, "t", "n"))
    assert bool((mask <= drop_mask((200, 200), 0.6, 0, "t", "m")).all())


def test_threshold_keeps_floor_of_density_entries_and_at_least_one(vectors):
    name = vectors.mergeable[0]
    magnitudes = vectors.deltas(name)[0].abs()
    for density in (1e-9, 0.25, 0.5, 1.0):
        kept = (magnitudes >= vectors.threshold(name, "a", density)).sum().item()
        assert kept == max(1, int(density * magnitudes.numel()))


def test_task_vectors_beyond_the_limit_are_not_kept_and_give_the_same(tiny_pool, vectors):
    small = TaskVectors(tiny_pool, limit_bytes=1)
    recipe = MergeRecipe.of("ties", {"a": 0.6, "b": 0.4}, density=0.3)
    ours, theirs = merge_state(small, recipe), merge_state(vectors, recipe)
    assert small.cached_bytes == 0
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_bf16_sources_are_accumulated_in_fp32_and_cast_once(tiny_pool_dir, tiny_pool):
    experts = {name: tiny_pool_dir[name] for name in "abc"}
    pool = ModelPool.load(tiny_pool_dir["base"], experts, dtype=torch.bfloat16)
    recipe = MergeRecipe.of("task_arithmetic", {"a": 0.4, "b": 0.3, "c": 0.3}, scale=1.5)
    state = merge_state(TaskVectors(pool), recipe)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = {n: named_tensors(pool.model(n))[name].double() for n in pool.names}
    base = tensors["base"]
    weighted = sum(w * (tensors[n] - base) for n, w in recipe.weights)
    exact = (base + 1.5 * weighted).to(torch.bfloat16)
    assert state[name].dtype == torch.bfloat16
    assert (state[name] != exact).float().mean() < 0.01


def test_densities_of_single_experts_are_heeded(vectors):
    name = vectors.mergeable[0]
    thin = MergeRecipe.of("ties", {"a": 1.0, "b": 0.0}, density=0.1)
    state = merge_state(vectors, thin)
    changed = (state[name] != vectors.base(name)).sum().item()
    assert changed == int(0.1 * state[name].numel())
    mixed = MergeRecipe.of("ties", {"a": 1.0, "b": 1.0}, density=1.0, densities=(("a", 0.1),))
    even = MergeRecipe.of("ties", {"a": 1.0, "b": 1.0}, density=1.0)
    assert not torch.equal(merge_state(vectors, mixed)[name], merge_state(vectors, even)[name])


def test_distance_from_base_is_the_mean_absolute_change(vectors):
    one = distance_from_base(vectors, MergeRecipe.of("task_arithmetic", {"a": 1.0}))
    total = sum(vectors.deltas(n)[0].abs().sum().item() for n in vectors.mergeable)
    count = sum(vectors.deltas(n)[0].numel() for n in vectors.mergeable)
    assert one == pytest.approx(total / count, rel=1e-4)
    double = MergeRecipe.of("task_arithmetic", {"a": 1.0}, scale=2.0)
    assert distance_from_base(vectors, double) == pytest.approx(2 * one, rel=1e-4)


def test_unknown_expert_is_named(vectors):
    with pytest.raises(InputError, match=r"'poetry'.*\n.*a, b, c"):
        merge_state(vectors, MergeRecipe.of("linear", {"poetry": 1.0}))

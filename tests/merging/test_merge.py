"""Merging whole models: completeness, determinism, precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hm3rl import registry
from hm3rl.errors import InputError
from hm3rl.merging import task_vectors, threads
from hm3rl.merging.merge import distance_from_base, merge_state, merge_tensor, merged_model
from hm3rl.merging.operators import TensorMerge
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.merging.survival import Survival
from hm3rl.merging.task_vectors import TaskVectors, band
from hm3rl.merging.traits import OperatorTraits, operator_names
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


def survivors(density, tensor="t", expert="m") -> torch.Tensor:
    delta = torch.ones(40_000)
    Survival(density, 0.0, 0, tensor, expert, 1)(delta)
    return delta


def test_survivors_have_the_right_share_and_differ_by_tensor_and_model():
    assert survivors(0.3).mean().item() == pytest.approx(0.3, abs=0.01)
    assert not torch.equal(survivors(0.3), survivors(0.3, "u"))
    assert not torch.equal(survivors(0.3), survivors(0.3, "t", "n"))
    assert bool((survivors(0.3) <= survivors(0.6)).all())


SURVIVORS = [0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("piece", [1, 5, 24])
def test_survivors_of_stored_recipes_do_not_change_however_a_tensor_is_cut(piece):
    survive = Survival(0.5, 0.0, 3, "model.norm.weight", "math", 1)
    delta = torch.ones(24)
    for start in range(0, 24, piece):
        survive(delta[start : start + piece])
    assert delta.int().tolist() == SURVIVORS


def test_magprune_is_unbiased_and_keeps_large_entries_more_often():
    delta = torch.linspace(0.01, 1, 400).repeat(300, 1)
    thinned = delta.clone()
    Survival(0.5, 0.3, 0, "t", "m", 400)(thinned.view(-1))
    assert thinned.mean().item() == pytest.approx(delta.mean().item(), rel=0.02)
    kept = (thinned > 0).float().mean(dim=0)
    assert kept[:40].mean().item() == pytest.approx(0.23, abs=0.01)
    assert kept[-40:].mean().item() == pytest.approx(0.77, abs=0.01)


def test_magnitude_is_the_rank_th_largest_and_band_counts_what_is_kept(vectors):
    name = vectors.mergeable[0]
    ranked = sorted(vectors.deltas(name)[0].abs().flatten().tolist(), reverse=True)
    for density in (1e-9, 0.25, 0.5, 1.0):
        first, last = band(len(ranked), density, None)
        assert (first, last) == (1, max(1, int(density * len(ranked))))
        assert vectors.magnitude(name, "a", last) == ranked[last - 1]
    assert band(100, 0.5, 0.1) == (11, 60)
    assert band(3, 0.5, 0.1) == (1, 1)


@pytest.mark.parametrize("operator", ["ties", "slerp"])
def test_statistics_beyond_the_limit_are_not_kept_and_give_the_same(operator, tiny_pool, vectors):
    recipe = MergeRecipe.of(operator, {"a": 0.6, "b": 0.4}, density=0.3)
    small, roomy = TaskVectors(tiny_pool, limit_bytes=1), TaskVectors(tiny_pool)
    ours, theirs = merge_state(small, recipe), merge_state(roomy, recipe)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert small.cached_bytes == 0
    assert 0 < roomy.cached_bytes < roomy.limit_bytes
    half = TaskVectors(tiny_pool, limit_bytes=roomy.cached_bytes // 2)
    again = merge_state(half, recipe)
    assert all(torch.equal(again[name], theirs[name]) for name in theirs)
    assert 0 < half.cached_bytes <= half.limit_bytes


@pytest.mark.parametrize("operator", sorted(operator_names()))
def test_neither_pieces_nor_threads_change_the_result(operator, tiny_pool, monkeypatch):
    recipe = MergeRecipe.of(operator, {"a": 0.6, "b": 0.4}, density=0.3, seed=2)
    whole = merge_state(TaskVectors(tiny_pool), recipe)
    monkeypatch.setattr(task_vectors, "CPU_PIECE", 100)
    monkeypatch.setattr(threads, "WORTH_THREADS", 1)
    torch.set_num_threads(2)
    try:
        pieces = merge_state(TaskVectors(tiny_pool), recipe)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, atol=1e-6, rtol=1e-6)


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


def test_profiles_give_each_tensor_the_weight_and_density_of_its_place(vectors, tiny_pool):
    recipe = MergeRecipe.of(
        "ties",
        {"a": {"attention": [0.0, 1.0], "mlp": [0.2, 0.6, 1.0], "rest": 0.5}, "b": 0.25},
        densities={"b": [0.2, 0.8]},
        density=0.5,
    )
    state = merge_state(vectors, recipe)
    by_layer = {"self_attn": (0.0, 0.5, 1.0), "mlp": (0.2, 0.6, 1.0)}
    for name, merged in state.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        block = next((b for b in by_layer if f".{b}." in name), None)
        weight = by_layer[block][layer] if block else 0.5
        density = (0.2, 0.5, 0.8)[layer]
        plain = MergeRecipe.of("ties", {"a": weight, "b": 0.25}, densities={"a": 0.5, "b": density})
        assert torch.equal(merged, merge_tensor(vectors, plain, name)), name


def test_weights_that_cancel_at_one_place_are_refused_with_its_name(vectors):
    recipe = MergeRecipe.of("linear", {"a": 1.0, "b": {"mlp": [0.5, -1.0], "rest": 1.0}})
    with pytest.raises(
        InputError, match=r"at model.layers.2.mlp.\w+.weight the weights .* sum to 0"
    ):
        merge_state(vectors, recipe)


@pytest.mark.parametrize("operator", sorted(operator_names()))
def test_every_operator_merges_whole_models(operator, vectors, tiny_pool):
    recipe = MergeRecipe.of(operator, {"a": 0.5, "b": 0.4}, density=0.6)
    state = merge_state(vectors, recipe)
    base = named_tensors(tiny_pool.model("base"))
    assert state.keys() == base.keys()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    assert any(not torch.equal(state[name], base[name]) for name in base)


@pytest.fixture
def own() -> Iterator[list[TensorMerge]]:
    """Registers `masked` and `trimmed`, which keep what they were given for each tensor."""
    known, given = registry.snapshot(), []

    def keep(t: TensorMerge) -> torch.Tensor:
        given.append(t)
        return t.base + t.deltas.sum(dim=0)

    masks = OperatorTraits(density=True, random=True, weighted=False)
    registry.register("operator", "masked", traits=masks)(keep)
    trims = OperatorTraits(density=True, gamma=True, normalise=False, gram=True)
    registry.register("operator", "trimmed", traits=trims)(keep)
    yield given
    registry.restore(known)


def test_an_operator_of_ones_own_gets_seeded_masks_and_thresholds(own, vectors):
    name = vectors.mergeable[0]
    recipe = MergeRecipe.of("masked", {"a": 0.7, "b": 0.3}, density=0.4, seed=6)
    assert recipe.seed == 6 and len({weight for _, weight in recipe.weights}) == 1
    merge_tensor(vectors, recipe, name)
    for expert, survival in zip("ab", own[0].survival, strict=True):
        drawn = Survival(0.4, 0.0, 6, name, expert, 1).draw(50)
        assert survival.density == 0.4 and torch.equal(survival.draw(50), drawn)
    assert own[0].densities.tolist() == pytest.approx([0.4, 0.4]) and own[0].smallest is None
    recipe = MergeRecipe.of("trimmed", {"a": 0.7, "b": 0.3}, density=0.4, gamma=0.1, scale=2.0)
    merge_tensor(vectors, recipe, name)
    theirs = MergeRecipe.of("breadcrumbs", {"a": 0.7, "b": 0.3}, density=0.4, gamma=0.1)
    entries = vectors.base(name).numel()
    first, last = band(entries, 0.4, theirs.gamma)
    assert own[1].smallest == [vectors.magnitude(name, expert, last) for expert in "ab"]
    assert own[1].largest == [vectors.magnitude(name, expert, first) for expert in "ab"]
    assert own[1].scale == 2.0 and own[1].gram.shape == (3, 3) and not own[1].survival
    assert MergeRecipe.of("trimmed", {"a": 0.7, "b": 0.3}, density=0.4, seed=1).seed == 0


@pytest.mark.gpu
@pytest.mark.parametrize("operator", sorted(operator_names()))
def test_an_accelerator_gives_the_same(operator, tiny_pool, tiny_pool_dir):
    experts = {name: tiny_pool_dir[name] for name in "abc"}
    pool = ModelPool.load(tiny_pool_dir["base"], experts, device="cuda")
    recipe = MergeRecipe.of(operator, {"a": 0.6, "b": 0.4}, density=0.3, seed=2)
    theirs = merge_state(TaskVectors(tiny_pool), recipe)
    for name, tensor in merge_state(TaskVectors(pool), recipe).items():
        assert tensor.device.type == "cuda"
        torch.testing.assert_close(tensor.cpu(), theirs[name], atol=1e-5, rtol=1e-5)

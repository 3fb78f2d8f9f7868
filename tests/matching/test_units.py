"""Matching finds planted orders, leaves fine-tunes alone and refuses what has other units."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.matching.axes import KEYS, QUERIES, READ, STREAM, VALUES, Heads, layout_of, permuted
from hm3rl.matching.units import match_heads, match_units
from hm3rl.models.pool import ModelPool
from hm3rl.models.shallow import named_tensors
from hm3rl.run.calibration import calibration_batch
from hm3rl.tasks.math import MathTask
from hm3rl.tasks.translation import TranslationTask
from tests.matching.planted import CALIBRATION, logit_error, random_model, random_orders


def noisy(model, size: float):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    for parameter in other.parameters():
        parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("family", ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gemma3"])
def test_a_planted_order_is_found_exactly(family, gamma, family_configs):
    model = random_model(family_configs[family])
    layout = layout_of(model)
    planted = random_orders(layout)
    other = permuted(model, layout, planted)
    found = match_units(model, other, gamma, CALIBRATION)
    assert not found.is_identity
    for axis, order in planted.items():
        assert torch.equal(order[found.orders[axis]], torch.arange(len(order))), axis
    back = found.apply(other)
    for name, tensor in named_tensors(model).items():
        assert torch.equal(named_tensors(back)[name], tensor), name
    assert logit_error(model, back) <= 1e-5
    assert found.similarity == pytest.approx(1, abs=1e-4)
    assert found.before < 0.5


def test_a_planted_order_is_found_in_a_fine_tune(family_configs):
    model = random_model(family_configs["qwen3"])
    layout = layout_of(model)
    planted = random_orders(layout)
    found = match_units(model, permuted(noisy(model, 0.05), layout, planted), 1.0)
    for axis, order in planted.items():
        assert torch.equal(order[found.orders[axis]], torch.arange(len(order))), axis


@pytest.fixture(scope="module")
def zoo() -> ModelPool:
    return ModelPool.load("zoo:base", {"code": "zoo:code"})


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_fine_tunes_of_one_base_stay_as_they_are(gamma, zoo):
    tasks = (MathTask(), TranslationTask())
    calibration = calibration_batch(tasks, zoo.tokenizer, 256, "cpu")
    found = match_units(zoo.model("base"), zoo.model("code"), gamma, calibration)
    assert found.is_identity
    assert found.similarity == found.before > 0.5


def test_unrelated_models_are_more_alike_afterwards_and_do_the_same(family_configs):
    one, other = (random_model(family_configs["llama"], seed) for seed in (0, 1))
    for gamma in (0.0, 0.5, 1.0):
        found = match_units(one, other, gamma, CALIBRATION)
        assert found.similarity > found.before + 0.1
        assert logit_error(other, found.apply(other)) < 1e-5
        again = match_units(one, other, gamma, CALIBRATION)
        assert again.key == found.key


def test_heads_move_by_group_with_all_that_belongs_to_them():
    heads = Heads(groups=2, queries=2, size=3)
    kinds = {QUERIES: 12, KEYS: 6, VALUES: 6, READ: 12}
    none = {kind: np.zeros((size, size)) for kind, size in kinds.items()}
    orders = match_heads(none, heads)
    assert {kind: sorted(order) for kind, order in orders.items()} == {
        kind: list(range(size)) for kind, size in kinds.items()
    }
    # Keys want the groups exchanged, one query head wants another place in its group, and one
    # value channel, as the second query head reads it, another place in its head.
    wish = {kind: matrix.copy() for kind, matrix in none.items()}
    wish[KEYS][0, 3] = 9
    wish[QUERIES][0, 9] = 5  # first head of group 0: second head of group 1
    wish[READ][2, 9] = 3  # its channel 2 is channel 0 there
    orders = match_heads(wish, heads)
    assert orders[KEYS].tolist() == [3, 4, 5, 0, 1, 2]
    assert orders[QUERIES][:6].tolist() == [9, 10, 11, 6, 7, 8]
    assert orders[VALUES][2] == 3 and set(orders[VALUES][:3]) == {3, 4, 5}
    assert orders[READ][2] == 9
    assert (orders[READ][3:6] - 6 == orders[VALUES][:3] - 3).all()


def test_other_shapes_are_refused_and_named(family_configs):
    one = random_model(family_configs["llama"])
    wide = copy.deepcopy(family_configs["llama"])
    wide.intermediate_size = 32
    with pytest.raises(InputError, match=r"B and A differ in intermediate_size: 32 against 24"):
        match_units(one, random_model(wide), 1.0)
    tied = random_model(family_configs["llama_tied"])
    with pytest.raises(InputError, match=r"B and A differ in lm_head.weight: .* against none"):
        match_units(tied, one, 1.0)
    with pytest.raises(InputError, match=r"B and A differ in lm_head.weight: none against"):
        match_units(one, tied, 1.0)
    with pytest.raises(InputError, match=r"x and y differ in model_type"):
        match_units(one, random_model(family_configs["qwen3"]), 1.0, labels=("y", "x"))


def test_gamma_and_texts_are_asked_for(tiny_pool):
    pair = tiny_pool.model("a"), tiny_pool.model("b")
    for gamma in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="gamma"):
            match_units(*pair, gamma, CALIBRATION)
    with pytest.raises(InputError, match="no texts to run"):
        match_units(*pair, 0.5)


def test_the_stream_has_one_order(family_configs):
    one, other = (random_model(family_configs["qwen2"], seed) for seed in (0, 1))
    found = match_units(one, other, 0.5, CALIBRATION)
    order, matched = found.orders[STREAM], found.apply(other)
    for name in ("model.norm.weight", "model.layers.2.input_layernorm.weight"):
        assert torch.equal(named_tensors(matched)[name], named_tensors(other)[name][order])

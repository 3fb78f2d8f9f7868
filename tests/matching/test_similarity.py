"""Correlations of units, gathered part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hm3rl.matching.axes import STREAM, layout_of, permuted
from hm3rl.matching.similarity import Correlation, activation_similarities
from tests.matching.planted import CALIBRATION, random_model, random_orders


def test_it_is_pearsons_whatever_the_parts():
    generator = torch.Generator().manual_seed(0)
    ours = 3 + torch.randn(4, 50, generator=generator)
    theirs = torch.randn(4, 50, generator=generator) - 2
    found = Correlation(4)
    for part in (slice(0, 7), slice(7, 50)):
        found.add(ours[:, part], theirs[:, part])
    wanted = np.corrcoef(ours.double().numpy(), theirs.double().numpy())[:4, 4:]
    assert found.matrix == pytest.approx(wanted)


def test_a_unit_that_never_changes_is_like_no_other():
    ours, theirs = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)), torch.rand(2, 9)
    ours[0] = 0.1
    found = Correlation(2)
    found.add(ours, theirs)
    assert found.matrix[0].tolist() == [0, 0]
    assert np.abs(found.matrix[1]).min() > 0


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_activations_of_one_unit_are_alike_in_any_order(family, family_configs):
    model = random_model(family_configs[family])
    layout = layout_of(model)
    orders = random_orders(layout)
    other = permuted(model, layout, orders)
    found = activation_similarities(model, other, layout, CALIBRATION)
    assert found.keys() == layout.sizes.keys()
    for axis, order in orders.items():
        # The unit that stands at place i of the other is unit order[i] of the model.
        assert found[axis][order, torch.arange(len(order))] == pytest.approx(1, abs=1e-4), axis
    assert found[STREAM].min() < 0.5
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_padding_is_not_looked_at(family_configs):
    model, other = (random_model(family_configs["llama"], seed) for seed in (0, 1))
    layout = layout_of(model)
    found = activation_similarities(model, other, layout, CALIBRATION)
    spoilt = type(CALIBRATION)(
        torch.where(CALIBRATION.attention_mask.bool(), CALIBRATION.input_ids, 9),
        CALIBRATION.attention_mask,
    )
    assert not torch.equal(spoilt.input_ids, CALIBRATION.input_ids)
    again = activation_similarities(model, other, layout, spoilt)
    for axis in found:
        assert again[axis] == pytest.approx(found[axis], abs=1e-6)

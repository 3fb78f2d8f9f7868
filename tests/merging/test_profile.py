"""Profiles against mergekit's definition of gradients, written out."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.merging.profile import Place, Profile, place_of
from hm3rl.models.shallow import named_tensors


@pytest.mark.parametrize(
    ("name", "block", "layer"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "attention", 3),
        ("model.layers.11.mlp.down_proj.weight", "mlp", 11),
        ("model.layers.0.input_layernorm.weight", "rest", 0),
        ("model.layers.2.self_attn.q_norm.weight", "attention", 2),
        ("transformer.h.1.attn.c_attn.bias", "attention", 1),
        ("transformer.h.1.ln_2.weight", "rest", 1),
        ("gpt_neox.layers.5.attention.dense.weight", "attention", 5),
        ("model.embed_tokens.weight", "rest", None),
        ("lm_head.weight", "rest", None),
    ],
)
def test_places(name, block, layer):
    assert place_of(name, 12) == Place(block, layer, 12)


def test_every_family_has_tensors_in_all_blocks(family_pool):
    tensors = named_tensors(family_pool.model("base"))
    places = [place_of(name, family_pool.num_layers) for name in tensors]
    for layer in range(family_pool.num_layers):
        assert {p.block for p in places if p.layer == layer} == {"attention", "mlp", "rest"}
    assert {p.block for p in places if p.layer is None} == {"rest"}


@pytest.mark.parametrize("anchors", [(0.0, 0.3, 0.7, 1.0), (0.2, 0.9), (0.5, 0.1, 0.6)])
@pytest.mark.parametrize("layers", [2, 5, 8])
def test_anchors_are_interpolated_linearly_over_the_depth(anchors, layers):
    profile = Profile.of(list(anchors))
    ours = [profile.at(Place("mlp", layer, layers)) for layer in range(layers)]
    depths = np.linspace(0, 1, layers)
    np.testing.assert_allclose(ours, np.interp(depths, np.linspace(0, 1, len(anchors)), anchors))
    assert profile.at(Place("rest", None, layers)) == anchors[0]
    assert profile.at(Place("attention", 0, 1)) == anchors[-1]


def test_as_many_anchors_as_layers_are_the_layers_values():
    values = [0.1, 0.9, 0.3, 0.3, 0.7, 0.2, 0.8]
    profile = Profile.of(values)
    assert [profile.at(Place("mlp", layer, 7)) for layer in range(7)] == values


def test_against_mergekit_when_it_is_installed():
    config = pytest.importorskip("mergekit.config")
    anchors = [0.0, 0.3, 0.7, 1.0]
    for layer in range(9):
        theirs = config.evaluate_setting("x", anchors, layer / 8, validate=float)
        assert Profile.of(anchors).at(Place("mlp", layer, 9)) == pytest.approx(theirs, abs=1e-12)


def test_plain_form_is_as_short_as_possible():
    for value in (0.5, [0.0, 1.0], {"mlp": [0.0, 1.0], "rest": 0.5}):
        assert Profile.of(value).plain() == value
    spelt = {"attention": 0.5, "mlp": [1.0, 1.0], "rest": [0.5, 0.5]}
    assert Profile.of(spelt).plain() == {"mlp": 1.0, "rest": 0.5}

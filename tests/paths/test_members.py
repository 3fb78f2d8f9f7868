"""The set of members: names, laziness, features."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.merging.merge import merge_tensors, merged_model
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.paths.assembly import assemble
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.members import MemberSet

RECIPE = MergeRecipe.of("ties", {"a": 0.5, "c": 0.25}, density=0.4, scale=1.5)


def test_names_in_order_and_adding_twice_changes_nothing(tiny_pool):
    members = MemberSet(tiny_pool, include_base=True)
    name = members.add(RECIPE)
    assert members.add(RECIPE) == name
    assert members.names == ("a", "b", "c", "base", name)
    assert MemberSet(tiny_pool).names == ("a", "b", "c")
    assert members.recipe(name) == RECIPE
    assert members.recipe("a") is None
    assert members.is_merged(name)
    assert not members.is_merged("base")


def test_merged_layers_are_cached_dropped_and_rebuilt_alike(tiny_pool):
    members = MemberSet(tiny_pool, cache_bytes=1)
    first, second = members.add(RECIPE), members.add(MergeRecipe.of("linear", {"b": 1.0}))
    model, layer = members.model(first), members.layer(first, 1)
    assert members.layer(first, 1) is layer is model.model.layers[1]
    members.model(second)
    again = members.model(first)
    assert again.model.layers[1] is not layer
    whole = merged_model(members.task_vectors, RECIPE)
    for ours, kept, theirs in zip(
        again.parameters(), model.parameters(), whole.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs) and torch.equal(kept, theirs)


def test_only_the_layers_used_are_merged(tiny_pool, monkeypatch):
    merged: list[str] = []

    def noted(task_vectors, recipe, names, out=None):
        merged.extend(names)
        return merge_tensors(task_vectors, recipe, names, out)

    monkeypatch.setattr("hm3rl.merging.merge.merge_tensors", noted)
    members = MemberSet(tiny_pool)
    path = LayerPath.parse("{a: 0.5} | {a: 0.5}[0] + {a: 0.5, b: 0.25}[1] + c[2]")
    model = assemble(Candidate.of(path), members)
    layers = {name.split(".")[2] for name in merged if ".layers." in name}
    assert layers == {"0", "1"} and len(set(merged)) == len(merged)
    for depth, weights in enumerate(({"a": 0.5}, {"a": 0.5, "b": 0.25}, {"c": 1.0})):
        whole = merged_model(members.task_vectors, MergeRecipe.of("task_arithmetic", weights))
        ours, theirs = model.model.layers[depth], whole.model.layers[depth]
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)
    embedding = model.get_input_embeddings().weight
    half = merged_model(members.task_vectors, MergeRecipe.of("task_arithmetic", {"a": 0.5}))
    assert torch.equal(embedding, half.get_input_embeddings().weight)


def test_blends_are_members_by_their_name(tiny_pool):
    members = MemberSet(tiny_pool)
    name = "{a: 0.5, b: 0.25}"
    assert members.is_merged(name) and members.names == ("a", "b", "c")
    assert members.recipe_features(name).tolist() == [0.5, 0.25, 0.0, 1.0, 1.0, 1.0]
    assert members.content(name) == members.content(members.add(members.recipe(name)))
    with pytest.raises(InputError, match="'stranger'"):
        members.layer("{stranger: 0.5}", 0)


def test_weights_are_freed_with_their_last_user_without_the_garbage_collector(tiny_pool):
    members = MemberSet(tiny_pool, cache_bytes=1)
    first, second = members.add(RECIPE), members.add(MergeRecipe.of("linear", {"b": 1.0}))
    path = LayerPath.parse(f"a | {first}[0] + a[1:3]")
    gc.collect()
    gc.disable()
    try:
        model = assemble(Candidate.of(path, members.recipes), members)
        weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
        members.model(second)
        assert weight() is not None
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_features_describe_the_recipe_and_not_the_position(tiny_pool):
    members = MemberSet(tiny_pool)
    members.add(MergeRecipe.of("linear", {"b": 1.0}))
    name = members.add(RECIPE)
    alone = MemberSet(tiny_pool)
    alone.add(RECIPE)
    features = members.recipe_features(name)
    assert features.dtype == np.float32
    assert features.shape == (6,)
    np.testing.assert_array_equal(features, alone.recipe_features(name))
    np.testing.assert_allclose(features, [0.5, 0, 0.25, 1.5, 0.4, 1], rtol=1e-6)
    np.testing.assert_array_equal(members.recipe_features("b"), [0, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(members.recipe_features("base"), [0, 0, 0, 1, 1, 0])


def test_sizes_and_neighbours(tiny_pool):
    members = MemberSet(tiny_pool)
    name = members.add(RECIPE)
    assert members.num_layers(name) == members.num_layers("a") == 3
    assert members.hidden_size(name) == 16
    assert members.can_follow("a", name)


def test_unknown_member_is_named_with_the_known_ones(tiny_pool):
    members = MemberSet(tiny_pool)
    with pytest.raises(InputError, match=r"no member 'poetry'.*\n.*a, b, c, base"):
        members.model("poetry")

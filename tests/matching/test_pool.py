"""Experts whose units stand in another order than the base's, and pools that need no matching."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hm3rl.errors import InputError
from hm3rl.export.weights import copy_tokenizer
from hm3rl.interop.mergekit_yaml import to_mergekit
from hm3rl.matching.axes import layout_of, permuted
from hm3rl.matching.pool import match_pool
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import Candidate
from tests.matching.planted import CALIBRATION, random_orders


@pytest.fixture(scope="module")
def folders(tiny_pool, tiny_pool_dir, tmp_path_factory) -> dict[str, Path]:
    """The tiny pool, but the units of `b` stand in a planted order."""
    model = tiny_pool.model("b")
    layout = layout_of(model)
    folder = tmp_path_factory.mktemp("planted") / "b"
    permuted(model, layout, random_orders(layout)).save_pretrained(folder)
    copy_tokenizer(tiny_pool_dir["b"], folder)
    return {**tiny_pool_dir, "b": folder}


def load(folders: dict[str, Path], *experts: str, **settings) -> ModelPool:
    return ModelPool.load(folders["base"], {name: folders[name] for name in experts}, **settings)


def test_an_expert_comes_into_the_order_of_the_base(folders, tiny_pool):
    pool = load(folders, "a", "b")
    matched = match_pool(pool, 1.0, None)
    assert matched.matched == ("b",) and pool.matched == ()
    for name in ("a", "b", "base"):
        for key, tensor in tiny_pool.tensors(name).items():
            assert torch.equal(matched.tensors(name)[key], tensor), (name, key)
    assert matched.hashes["b"] != pool.hashes["b"]
    assert {n: matched.hashes[n] for n in ("a", "base")} == {
        n: pool.hashes[n] for n in ("a", "base")
    }
    assert match_pool(pool, 1.0, None).hashes == matched.hashes
    (note,) = matched.notes
    assert note.startswith("expert 'b': its units are in the order that matches the base's")
    with pytest.raises(InputError, match="the units of b were put into the base's order"):
        to_mergekit(Candidate.whole("a", 3), matched)


def test_experts_of_the_base_leave_the_pool_as_it_is(folders):
    pool = load(folders, "a", "c")
    assert match_pool(pool, 1.0, None) is pool


def test_two_of_their_own_meet_with_the_first_as_the_base(folders, tiny_pool):
    pool = ModelPool.load(folders["a"], {"a": folders["a"], "b": folders["b"]})
    matched = match_pool(pool, 1.0, None)
    assert matched.matched == ("b",)
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(matched.tensors("b")[name], tiny_pool.tensors("b")[name])


def test_an_expert_of_another_architecture_is_named(folders, save_pool, tiny_config, tmp_path):
    deep = save_pool(tmp_path, tiny_config(num_hidden_layers=2), ("a",))
    pool = load({**folders, "c": deep["a"]}, "b", "c", architecture="mixed")
    with pytest.raises(InputError, match=r"expert 'c' and base differ in num_hidden_layers: 2 ag"):
        match_pool(pool, 0.5, CALIBRATION)

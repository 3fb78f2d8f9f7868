"""Shallow copies own their dictionaries and share their tensors."""

from __future__ import annotations

import torch
from torch import nn

from hm3rl.models.shallow import deep_shallow_copy, named_tensors, shallow_copy


class Tied(nn.Module):
    """Two names for one weight, one buffer that is stored and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("stored", torch.ones(2))
        self.register_buffer("derived", torch.ones(2), persistent=False)


def test_copy_shares_tensors_and_nothing_that_can_be_registered():
    source = Tied()
    source.register_forward_hook(lambda *_: None)
    copied = shallow_copy(source)
    assert copied.first is source.first
    assert copied.stored is source.stored
    assert not copied._forward_hooks
    copied.register_forward_hook(lambda *_: None)
    copied.extra = nn.Linear(1, 1)
    assert len(source._forward_hooks) == 1
    assert "extra" not in source._modules


def test_replacing_a_tied_weight_replaces_all_its_uses():
    source = Tied()
    old = source.first.weight
    copied = deep_shallow_copy(source, {id(old): torch.zeros(2, 2)})
    assert copied.first.weight is copied.second.weight
    assert not copied.first.weight.any()
    assert source.first.weight is old
    assert copied.derived is source.derived


def test_every_stored_tensor_is_listed_once():
    assert list(named_tensors(Tied())) == ["first.weight", "stored"]

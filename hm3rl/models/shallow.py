"""Shallow copies of modules: new module objects over the same weights.

`copy.copy` of a module shares the dictionaries in which it keeps its parameters, submodules and
hooks, so that a change to the copy changes the original. Here every copy has its own dictionaries,
and only the tensors are shared.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


_OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


@functools.cache
def _to_be_copied(keys: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pick, once for each kind of module, the attributes that a copy has for itself.

    Returns:
        Names of the hooks' dictionaries, which start empty, and of the containers to be copied.
    """
    hooks = tuple(key for key in keys if key.endswith("_hooks") or "_hooks_" in key)
    return hooks, tuple(key for key in keys if key in _OWN)


def shallow_copy(module: M) -> M:
    """Copy one module object; its submodules and tensors are shared, its hooks are not taken over.

    Shared hook dictionaries would let an observer of the copy pollute the source.

    Args:
        module: Any module.

    Returns:
        A module of the same class with its own dictionaries.
    """
    copied = module.__class__.__new__(module.__class__)
    state = module.__dict__.copy()
    hooks, own = _to_be_copied(tuple(state))
    for key in hooks:
        if isinstance(state[key], dict):
            state[key] = type(state[key])()
    for key in own:
        state[key] = state[key].copy()
    # transformers installs its output-capturing hooks once per model and remembers it here.
    state.pop("_output_capturing_hooks_installed", None)
    object.__setattr__(copied, "__dict__", state)
    return copied


def deep_shallow_copy(module: M, tensors: Mapping[int, torch.Tensor] | None = None) -> M:
    """Copy a whole module tree over shared tensors, exchanging some of them.

    Args:
        module: Root of the tree.
        tensors: New tensor by `id` of the parameter or buffer it replaces; all uses of a shared
            parameter are replaced alike, so tied weights stay tied.

    Returns:
        The copied tree.
    """
    fresh = {
        key: value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
        for key, value in (tensors or {}).items()
    }
    return _copy_tree(module, fresh, {})  # type: ignore[return-value]


def _copy_tree(
    node: nn.Module, fresh: Mapping[int, nn.Parameter], done: dict[int, nn.Module]
) -> nn.Module:
    # A plain function: a closure that calls itself would keep the copies alive in a cycle.
    if id(node) in done:
        return done[id(node)]
    copied = shallow_copy(node)
    done[id(node)] = copied
    for name, parameter in copied._parameters.items():
        if parameter is not None and id(parameter) in fresh:
            copied._parameters[name] = fresh[id(parameter)]
    for name, buffer in copied._buffers.items():
        if buffer is not None and id(buffer) in fresh:
            copied._buffers[name] = fresh[id(buffer)].data
    for name, child in copied._modules.items():
        if child is not None:
            copied._modules[name] = _copy_tree(child, fresh, done)
    return copied


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """List every stored tensor once: parameters, then persistent buffers; tied ones by first name.

    Returns:
        Tensor by its name in the state dict, in module order.
    """
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=True))
    persistent = module.state_dict(keep_vars=True).keys()
    for name, buffer in module.named_buffers(remove_duplicate=True):
        if name in persistent:
            found[name] = buffer
    return found

"""Which units of two models belong together (MuDSC, Xu et al., arXiv 2403.01753).

Units are compared by weights and by activations at once, S = gamma * S_weight + (1 - gamma) *
S_activation, both correlations, and assigned by the Hungarian method, node by node: the residual
stream, each MLP, each attention (there inside each pair of KV groups, then over the groups). What a
unit's weights are depends on the order of the nodes they lead to, so all nodes are gone through in
sweeps, in random order; the orders of the greatest mean similarity are kept. gamma = 1 is weight
matching (Git Re-Basin, Ainsworth et al., arXiv 2209.04836), gamma = 0 activation matching.

Decisions of ours: at first the stream is matched by what touches it alone (embedding and head), the
other nodes by the stream; query heads may change places inside their group; the identity is kept
unless another order is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from transformers import PretrainedConfig, PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.matching.axes import (
    KEYS,
    MLP,
    QUERIES,
    READ,
    STREAM,
    VALUES,
    Heads,
    Layout,
    Orders,
    axis_of,
    layout_of,
    orders_hash,
    permuted,
)
from hm3rl.matching.similarity import Correlation, activation_similarities, weight_parts
from hm3rl.models.compatibility import describe, differences
from hm3rl.models.shallow import named_tensors
from hm3rl.paths.statistics import Calibration

MOST_SWEEPS = 100
PATIENCE = 5
"""Sweeps without progress after which matching ends, as published."""

ATTENTION = (QUERIES, KEYS, VALUES, READ)


@dataclass(frozen=True)
class Matching:
    """The order in which a model's units match another's.

    Attributes:
        layout: Axes of both models.
        orders: Which unit of the matched model belongs at each place, by axis.
        before: Mean similarity of units at equal places, over all axes, in [-1, 1].
        similarity: The same in the orders found.
        sweeps: How often all nodes were gone through.
    """

    layout: Layout
    orders: Orders
    before: float
    similarity: float
    sweeps: int

    @property
    def is_identity(self) -> bool:
        """Whether every unit stays where it is."""
        identity = self.layout.identity
        return all(torch.equal(order, identity[axis]) for axis, order in self.orders.items())

    @property
    def key(self) -> str:
        """Hash of the orders, 64 hexadecimal digits."""
        return orders_hash(self.orders)

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """Build the matched model with its units in the orders found; it computes the same."""
        return permuted(model, self.layout, self.orders)


def check_configs(
    ours: PretrainedConfig, theirs: PretrainedConfig, labels: tuple[str, str]
) -> None:
    """Require two models of one architecture, as far as their configurations tell.

    Args:
        ours: Of the model that is matched to.
        theirs: Of the model that is matched.
        labels: How messages name them.

    Raises:
        InputError: They differ; says in what.
    """
    label, other = labels
    if found := differences(ours, theirs):
        raise InputError(
            f"{describe(found, other, label)}, so their units cannot be matched",
            "match models of one architecture",
        )


def check_matchable(
    ours: PreTrainedModel, theirs: PreTrainedModel, labels: tuple[str, str]
) -> None:
    """Require that the units of two models can be matched.

    Args:
        ours: The model that is matched to.
        theirs: The model that is matched.
        labels: How messages name them.

    Raises:
        InputError: They are of different shapes, or nothing is known of their architecture.
    """
    label, other = labels
    check_configs(ours.config, theirs.config, labels)
    one, two = layout_of(ours), layout_of(theirs)
    shapes = [
        {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
        for model in (ours, theirs)
    ]
    for name in (*one.tensors, *two.tensors):
        mine, its = (found.get(name, "none") for found in shapes)
        if mine != its:
            raise InputError(
                f"{other} and {label} differ in {name}: {its} against {mine}, so their units "
                "cannot be matched",
                "bring them to one vocabulary and one kind of head (hm3rl match does)",
            )


@torch.no_grad()
def match_units(
    ours: PreTrainedModel,
    theirs: PreTrainedModel,
    gamma: float = 0.5,
    calibration: Calibration | None = None,
    *,
    seed: int = 0,
    labels: tuple[str, str] = ("A", "B"),
) -> Matching:
    """Find the order in which the units of one model match those of another.

    Args:
        ours: The model that is matched to.
        theirs: The model that is matched; neither is changed.
        gamma: Share of the weights' similarity, in [0, 1]; the rest is the activations'.
        calibration: Token sequences for the activations; unused if gamma is 1.
        seed: Of the order in which nodes are gone through.
        labels: How messages name the two.

    Returns:
        The orders.

    Raises:
        InputError: The models cannot be matched, gamma is outside its range, or there are no
            sequences.
    """
    if not 0 <= gamma <= 1:
        raise InputError(f"gamma {gamma:g}", "give a number from 0 (activations) to 1 (weights)")
    if gamma < 1 and calibration is None:
        raise InputError(
            f"gamma {gamma:g} compares activations, and there are no texts to run",
            "name tasks whose items can be run, or compare weights alone: gamma 1",
        )
    check_matchable(ours, theirs, labels)
    layout = layout_of(ours)
    activations: dict[str, np.ndarray] = {}
    if gamma < 1:
        assert calibration is not None
        activations = activation_similarities(ours, theirs, layout, calibration)
    return _Search(ours, theirs, layout, gamma, activations).run(np.random.default_rng(seed))


class _Search:
    """The sweeps."""

    def __init__(
        self,
        ours: PreTrainedModel,
        theirs: PreTrainedModel,
        layout: Layout,
        gamma: float,
        activations: dict[str, np.ndarray],
    ) -> None:
        self._ours, self._theirs = named_tensors(ours), named_tensors(theirs)
        self._layout, self._gamma, self._activations = layout, gamma, activations
        self._orders: dict[str, torch.Tensor] = layout.identity
        self._settled: set[str] = set(layout.sizes)

    def run(self, rng: np.random.Generator) -> Matching:
        """Sweep until nothing gets better."""
        before = self._mean({axis: self._similarity(axis) for axis in self._orders})
        best, kept, waited, sweep = before, dict(self._orders), 0, 1
        stream, *others = nodes = self._nodes()
        self._settled = set()
        stream()
        for place in rng.permutation(len(others)):
            others[place]()
        while sweep < MOST_SWEEPS and waited < PATIENCE:
            last = dict(self._orders)
            similarities: dict[str, np.ndarray] = {}
            for place in rng.permutation(len(nodes)):
                similarities |= nodes[place]()
            sweep += 1
            found = self._mean(similarities)
            waited = 0 if found > best else waited + 1
            if found > best:
                best, kept = found, dict(self._orders)
            if all(torch.equal(last[axis], self._orders[axis]) for axis in last):
                break
        # Each similarity was of the moment its node was solved; these are of the orders kept.
        self._orders, self._settled = kept, set(kept)
        similarity = self._mean({axis: self._similarity(axis) for axis in kept})
        if similarity <= before:
            return Matching(self._layout, self._layout.identity, before, before, sweep)
        return Matching(self._layout, kept, before, similarity, sweep)

    def _nodes(self) -> list[Callable[[], dict[str, np.ndarray]]]:
        """What solves each node, the stream first; returns the similarities it saw, by axis."""
        nodes: list[Callable[[], dict[str, np.ndarray]]] = [partial(self._plain, STREAM)]
        for layer in range(self._layout.layers):
            nodes.append(partial(self._plain, axis_of(layer, MLP)))
            nodes.append(partial(self._attention, layer))
        return nodes

    def _plain(self, axis: str) -> dict[str, np.ndarray]:
        similarity = self._similarity(axis)
        self._settle({axis: linear_sum_assignment(similarity, maximize=True)[1]})
        return {axis: similarity}

    def _attention(self, layer: int) -> dict[str, np.ndarray]:
        axes = {kind: axis_of(layer, kind) for kind in ATTENTION}
        similarities = {kind: self._similarity(axis) for kind, axis in axes.items()}
        orders = match_heads(similarities, self._layout.heads)
        self._settle({axes[kind]: order for kind, order in orders.items()})
        return {axes[kind]: similarity for kind, similarity in similarities.items()}

    def _settle(self, orders: dict[str, np.ndarray]) -> None:
        self._orders.update((axis, torch.from_numpy(order)) for axis, order in orders.items())
        self._settled.update(orders)

    def _similarity(self, axis: str) -> np.ndarray:
        """Similarity of the units of an axis given the orders of the others, shape (D, D)."""
        if self._gamma == 0:
            return self._activations[axis]
        weights = Correlation(self._layout.sizes[axis])
        given = (self._ours, self._theirs, self._orders, self._settled)
        for part in weight_parts(axis, self._layout, *given):
            weights.add(*part)
        if self._gamma == 1:
            return weights.matrix
        return self._gamma * weights.matrix + (1 - self._gamma) * self._activations[axis]

    def _mean(self, similarities: dict[str, np.ndarray]) -> float:
        """Mean similarity of the units that stand at one place now, over all axes."""
        found = [
            similarity[np.arange(len(similarity)), self._orders[axis].numpy()]
            for axis, similarity in similarities.items()
        ]
        return float(np.concatenate(found).mean())


def match_heads(similarities: dict[str, np.ndarray], heads: Heads) -> dict[str, np.ndarray]:
    """Assign KV groups, the query heads in them, and the value channels in those.

    Inside each pair of groups, query heads and value channels are assigned in turn until neither
    changes (with one query head in a group that is exact); then the groups are.

    Args:
        similarities: By kind of axis, shape (D, D).
        heads: The heads.

    Returns:
        Orders by kind of axis.
    """
    groups, queries, size = heads.groups, heads.queries, heads.size
    shape = (groups, queries, size, groups, queries, size)
    query, read = (similarities[kind].reshape(shape) for kind in (QUERIES, READ))
    kept = (groups, size, groups, size)
    key, value = (similarities[kind].reshape(kept) for kind in (KEYS, VALUES))
    inside: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    gains = np.zeros((groups, groups))
    for ours in range(groups):
        for theirs in range(groups):
            # Channels of queries and keys stay where they are: rotary positions forbid more.
            by_head = np.einsum("rici->rc", query[ours, :, :, theirs])
            *found, gain = _match_inside(by_head, value[ours, :, theirs], read[ours, :, :, theirs])
            inside[ours, theirs] = (found[0], found[1])
            gains[ours, theirs] = gain + np.trace(key[ours, :, theirs])
    chosen = linear_sum_assignment(gains, maximize=True)[1]
    orders: dict[str, list[np.ndarray]] = {kind: [] for kind in ATTENTION}
    still = np.arange(size)
    for ours, theirs in enumerate(chosen):
        heads_order, channels = inside[ours, theirs]
        orders[KEYS].append(theirs * size + still)
        orders[VALUES].append(theirs * size + channels)
        for head in heads_order:
            start = (theirs * queries + head) * size
            orders[QUERIES].append(start + still)
            orders[READ].append(start + channels)
    return {kind: np.concatenate(found) for kind, found in orders.items()}


def _match_inside(
    query: np.ndarray, value: np.ndarray, read: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Assign query heads and value channels inside a pair of KV groups.

    Args:
        query: Similarity of query heads, R of them, with their channels in place, shape (R, R).
        value: Similarity of value channels, shape (h, h).
        read: Similarity of what the output projection reads, shape (R, h, R, h).

    Returns:
        Orders of heads and channels, and the similarity they have in all.
    """
    heads = channels = np.arange(0)
    gain = -np.inf
    seen = value + read.mean(axis=(0, 2))  # of heads not yet assigned: any with any
    while True:
        new_channels = linear_sum_assignment(seen, maximize=True)[1]
        by_head = query + read[:, np.arange(len(value)), :, new_channels].sum(axis=0)
        new_heads = linear_sum_assignment(by_head, maximize=True)[1]
        rows = np.arange(len(query))
        found = by_head[rows, new_heads].sum() + value[np.arange(len(value)), new_channels].sum()
        if found <= gain + 1e-9:
            return heads, channels, float(gain)
        heads, channels, gain = new_heads, new_channels, found
        seen = value + read[rows, :, heads].sum(axis=0)

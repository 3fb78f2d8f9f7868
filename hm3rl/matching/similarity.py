"""How alike the units of two models are: correlations of their weights and of their activations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hm3rl.matching.axes import (
    KEYS,
    MLP,
    QUERIES,
    READ,
    STREAM,
    VALUES,
    Layout,
    Orders,
    kind_of,
    reordered,
)
from hm3rl.models.shallow import deep_shallow_copy
from hm3rl.paths.families import decoder
from hm3rl.paths.statistics import Calibration

ROWS = 16
"""Calibration sequences in one forward pass."""

Parts = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""What is known of the units of two models, part by part: pairs of shape (D, F), units first."""


class Correlation:
    """Pearson's correlation of D units of one model with D units of another, fp64.

    Args:
        units: D.
    """

    def __init__(self, units: int) -> None:
        self._count = 0
        self._cross = np.zeros((units, units))
        self._sums = np.zeros((2, units))
        self._squares = np.zeros((2, units))

    def add(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Take F more values of every unit into account.

        Args:
            ours: Shape (D, F).
            theirs: Shape (D, F).
        """
        one, other = ours.double(), theirs.double()
        self._count += one.shape[1]
        self._cross += (one @ other.T).cpu().numpy()
        for row, values in enumerate((one, other)):
            self._sums[row] += values.sum(dim=1).cpu().numpy()
            self._squares[row] += values.square().sum(dim=1).cpu().numpy()

    @property
    def matrix(self) -> np.ndarray:
        """Correlations, shape (D, D), ours first; 0 for units that never change."""
        count = max(self._count, 1)
        covariance = self._cross / count - np.outer(*self._sums / count)
        variance = self._squares / count - (self._sums / count) ** 2
        # What is left of a constant by rounding is no variance.
        constant = variance <= 1e-12 * self._squares / count
        scale = np.sqrt(np.where(constant, np.inf, variance))
        return np.asarray(covariance / np.outer(*scale))


def weight_parts(
    axis: str,
    layout: Layout,
    ours: Mapping[str, torch.Tensor],
    theirs: Mapping[str, torch.Tensor],
    orders: Orders,
    settled: Collection[str],
) -> Parts:
    """Yield the rows and columns of all matrices that belong to the units of an axis.

    Norms and biases move along with the units and say nothing: a norm's weights are all near 1.

    Args:
        axis: The axis.
        layout: Axes of both models.
        ours: Tensors of the model that is matched to, by name.
        theirs: Tensors of the model that is matched.
        orders: Its present orders, applied along the other axis of each matrix.
        settled: Axes whose orders mean something yet; matrices along others are passed over.
    """
    for name, axes in layout.tensors.items():
        if axis not in axes or len(axes) != 2:
            continue
        if any(other not in settled for other in axes if other not in (None, axis)):
            continue
        place = axes.index(axis)
        moved = reordered(theirs[name], axes, orders, but=axis)
        yield ours[name].movedim(place, 0), moved.movedim(place, 0)


@torch.no_grad()
def activation_similarities(
    ours: PreTrainedModel, theirs: PreTrainedModel, layout: Layout, calibration: Calibration
) -> dict[str, np.ndarray]:
    """Correlate the activations of two models' units over a calibration batch.

    The stream is looked at where a norm reads it, divided by its root mean square, as the norm
    does, so that late layers do not outweigh early ones; the hidden units of an MLP and the
    channels of values where the next projection reads them; queries, keys and values where they
    are made.

    Args:
        ours: The model that is matched to.
        theirs: The model that is matched.
        layout: Axes of both.
        calibration: Token sequences.

    Returns:
        Correlations by axis, shape (D, D), ours first.
    """
    found = {axis: Correlation(size) for axis, size in layout.sizes.items()}
    listeners = [_Listener(model, layout) for model in (ours, theirs)]
    for start in range(0, len(calibration.input_ids), ROWS):
        span = slice(start, start + ROWS)
        batch = Calibration(calibration.input_ids[span], calibration.attention_mask[span])
        one, other = (listener.activations(batch) for listener in listeners)
        for (axis, mine), (_, its) in zip(one, other, strict=True):
            found[axis].add(mine, its)
    return {axis: correlation.matrix for axis, correlation in found.items()}


class _Listener:
    """A copy of a model, over the same weights, that notes the activations of its units."""

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self._model = deep_shallow_copy(model)  # hooks on the model itself would stay for others
        self._mask = torch.empty(0)
        self._noted: list[tuple[str, torch.Tensor]] = []
        for name, axes in layout.tensors.items():
            path, _, leaf = name.rpartition(".")
            if leaf != "weight":
                continue
            module = self._model.get_submodule(path)
            written, read = axes[0], axes[-1]
            if axes == (STREAM,):
                module.register_forward_pre_hook(self._note_read(STREAM))
            elif written is not None and kind_of(written) in (QUERIES, KEYS, VALUES):
                module.register_forward_hook(self._note_written(written))
            elif read is not None and kind_of(read) in (READ, MLP):
                module.register_forward_pre_hook(self._note_read(read))

    def activations(self, batch: Calibration) -> list[tuple[str, torch.Tensor]]:
        """Run a batch; axes and what their units did at its N tokens, shape (D, N) each."""
        self._noted, self._mask = [], batch.attention_mask.bool()
        decoder(self._model)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        )
        return self._noted

    def _note(self, axis: str, values: torch.Tensor) -> None:
        states = values[self._mask].double()
        if axis == STREAM:
            states = states / states.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        self._noted.append((axis, states.T))

    def _note_read(self, axis: str) -> Any:
        return lambda module, given: self._note(axis, given[0])

    def _note_written(self, axis: str) -> Any:
        return lambda module, given, made: self._note(axis, made)

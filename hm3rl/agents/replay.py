"""Trajectories for regression: evaluated paths with their vectors, and model-generated ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hm3rl.paths.space import PathSpace

SMALLEST = 1e-6
"""Smaller negative log-likelihoods count as this, so that they have a logarithm."""

LEAST_SPREAD = 1e-3
"""Logarithms that differ by less in the whole replay are not blown up to a spread of 1."""


class TrajectoryBatch(NamedTuple):
    """Whole trajectories.

    Attributes:
        path: Token rows, integers of shape (B, horizon).
        masks: Legal actions at each step, boolean of shape (B, horizon, actions).
        steps: Which steps were taken, boolean of shape (B, horizon).
        preference: The preference under which they are learnt from, shape (B, K).
        vector: Outcomes f / z*, shape (B, K).
        likelihood: Logarithms of each task's negative log-likelihood, less their mean over the
            evaluated trajectories and divided by their spread; NaN if unknown; shape (B, K).
        lengths: Layers of each path, integers of shape (B,).
    """

    path: Tensor
    masks: Tensor
    steps: Tensor
    preference: Tensor
    vector: Tensor
    likelihood: Tensor
    lengths: Tensor

    def to_go(self, gamma: float, spread: bool) -> Tensor:
        """Share of the return that is still to come before each step, shape (B, horizon).

        The return of n actions is paid by the last of them, or in n equal parts (HM3's R / T), and
        discounted; so critics trained on replayed paths mean what PPO's critic means.
        """
        count = self.steps.sum(dim=1, keepdim=True).float()
        left = (count - torch.arange(self.steps.shape[1])).clamp(min=1.0)
        return share_to_go(left, count, gamma, spread)


def share_to_go(left: Tensor, count: Tensor, gamma: float, spread: bool) -> Tensor:
    """Discounted share of a return that the `left` last of `count` actions are paid."""
    if not spread:
        return gamma ** (left - 1.0)
    paid = left if gamma == 1.0 else (1.0 - gamma**left) / (1.0 - gamma)
    return paid / count


class Replay:
    """All trajectories of one path space; context and descriptors are the space's.

    Args:
        space: The path space.
        objectives: K.
    """

    def __init__(self, space: PathSpace, objectives: int) -> None:
        self.space = space
        self.objectives = objectives
        self.tokens = np.zeros((0, space.horizon), dtype=np.int64)
        self.vectors = np.zeros((0, objectives))
        self.preferences = np.zeros((0, objectives))
        self.logs = np.zeros((0, objectives))
        self.model_generated = np.zeros(0, dtype=bool)
        self._masks = np.zeros((0, space.horizon, space.num_actions), dtype=bool)
        self.context = torch.as_tensor(space.context.ravel()[None], dtype=torch.float32)
        self.descriptors = torch.as_tensor(space.descriptors.ravel()[None], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(
        self,
        tokens: np.ndarray,
        vectors: np.ndarray,
        preferences: np.ndarray,
        nll: np.ndarray | None = None,
        model_generated: bool = False,
    ) -> None:
        """Append trajectories.

        Args:
            tokens: Rows, shape (n, horizon).
            vectors: Outcomes f / z*, shape (n, K).
            preferences: Preferences under which they were made, shape (n, K).
            nll: Negative log-likelihoods, shape (n, K), NaN where unknown; None: all unknown.
            model_generated: Whether outcomes are the surrogate's predictions, not evaluations.
        """
        if len(tokens) == 0:
            return
        self.tokens = np.concatenate([self.tokens, tokens])
        self.vectors = np.concatenate([self.vectors, vectors])
        self.preferences = np.concatenate([self.preferences, preferences])
        logs = np.full(vectors.shape, np.nan) if nll is None else np.log(np.maximum(nll, SMALLEST))
        self.logs = np.concatenate([self.logs, logs])
        self.model_generated = np.concatenate(
            [self.model_generated, np.full(len(tokens), model_generated)]
        )
        self._masks = np.concatenate([self._masks, np.stack([self._mask(row) for row in tokens])])

    @property
    def lengths(self) -> np.ndarray:
        """Layers of each path, shape (n,)."""
        return self.space.lengths(self.tokens)

    def _mask(self, row: np.ndarray) -> np.ndarray:
        before = [self.space.pad, *(int(t) for t in row[:-1])]
        return np.stack([self.space.mask_after(last, step) for step, last in enumerate(before)])

    def forget_model_generated(self) -> None:
        """Drop model-generated trajectories (their predictions are out of date)."""
        keep = ~self.model_generated
        self.tokens, self.vectors = self.tokens[keep], self.vectors[keep]
        self.logs = self.logs[keep]
        self.preferences, self._masks = self.preferences[keep], self._masks[keep]
        self.model_generated = self.model_generated[keep]

    def _likelihoods(self, index: np.ndarray) -> np.ndarray:
        """Standardised logarithms of trajectories by position, shape (B, K)."""
        known = self.logs[~np.isnan(self.logs).any(axis=1)]
        if len(known) == 0:
            return self.logs[index]
        spread = np.maximum(known.std(axis=0), LEAST_SPREAD)
        return np.asarray((self.logs[index] - known.mean(axis=0)) / spread)

    def batch(self, index: np.ndarray, preferences: np.ndarray) -> TrajectoryBatch:
        """Trajectories by position, relabelled with preferences of shape (B, K)."""
        path = torch.as_tensor(self.tokens[index])
        return TrajectoryBatch(
            path,
            torch.as_tensor(self._masks[index]),
            path != self.space.pad,
            torch.as_tensor(preferences, dtype=torch.float32),
            torch.as_tensor(self.vectors[index], dtype=torch.float32),
            torch.as_tensor(self._likelihoods(index), dtype=torch.float32),
            torch.as_tensor(self.lengths[index]),
        )

"""Trust regions for the Bayesian optimisation of blends."""

from __future__ import annotations

import numpy as np

from experiments.zoo.levels import pick_members
from hm3rl.objectives.indicators import non_dominated

FIRST, SMALLEST, LARGEST = 0.8, 0.05, 1.6
"""Sides of a region: at first, and between what; one that gets smaller starts anew."""

Box = tuple[np.ndarray, np.ndarray]
"""Lower and upper corner, each of shape (D,)."""


class Regions:
    """Trust regions for several objectives, after MORBO (Daulton et al., UAI 2022).

    Each is a box around another point of the front: those that add most to its hypervolume, one
    after the other. A batch that found a point of the front in a box doubles its sides, another one
    halves them. Unlike MORBO's, all boxes share one model of everything known.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self.sides = np.full(count, FIRST)
        self.boxes: list[Box] = []

    def around(self, vectors: np.ndarray, scores: np.ndarray) -> list[Box]:
        """Lower and upper corners of the boxes, each of shape (D,).

        Args:
            vectors: What is known, shape (N, D).
            scores: Its f / z*, shape (N, K).
        """
        centres = vectors[pick_members(scores, scores[:0], min(len(self.sides), len(scores)))]
        self.boxes = [
            (np.clip(centre - side / 2, 0.0, 1.0), np.clip(centre + side / 2, 0.0, 1.0))
            for centre, side in zip(centres, self.sides, strict=False)
        ]
        return self.boxes

    def learn(self, vectors: np.ndarray, scores: np.ndarray, before: int) -> None:
        """Grow and shrink.

        Args:
            vectors: What is known, shape (N, D).
            scores: Its f / z*, shape (N, K).
            before: How many of these were known when the boxes were drawn.
        """
        new = vectors[before:][non_dominated(scores)[before:]]
        for i, (low, high) in enumerate(self.boxes):
            found = ((new >= low) & (new <= high)).all(axis=1).any()
            self.sides[i] = min(self.sides[i] * 2, LARGEST) if found else self.sides[i] / 2
            if self.sides[i] < SMALLEST:
                self.sides[i] = FIRST

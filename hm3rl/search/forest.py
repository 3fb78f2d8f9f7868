"""SMAC's surrogate and acquisition for several objectives: a random forest, ParEGO, EI.

SMAC (Hutter et al., 2011; SMAC3, Lindauer et al., JMLR 2022) models the cost by a random forest,
whose trees give mean and variance, and evaluates where the expected improvement is highest; with
several objectives it optimises a random augmented Tchebycheff scalarisation at a time (ParEGO,
Knowles, 2006). The forest is scikit-learn's. It predicts the objectives, which are scalarised tree
by tree, so that one fit serves all preferences; SMAC fits the scalarised cost.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm
from sklearn.ensemble import RandomForestRegressor

from hm3rl.objectives.scalarisation import tchebycheff

TREES = 32

FEATURES = 5 / 6
"""Share of the features each split may choose from, SMAC's."""


class Forest:
    """Predicts scores of points from their features.

    Args:
        features: Shape (n, D).
        vectors: Scores f / z*, shape (n, K).
        seed: Seed of the trees.
    """

    def __init__(self, features: np.ndarray, vectors: np.ndarray, seed: int) -> None:
        self.vectors = vectors
        self._model = RandomForestRegressor(TREES, max_features=FEATURES, random_state=seed)
        self._model.fit(features, vectors if vectors.shape[1] > 1 else vectors[:, 0])

    def improvement(self, features: np.ndarray, preferences: np.ndarray) -> np.ndarray:
        """Expected improvement of Tchebycheff utilities over the best known point.

        Args:
            features: Shape (m, D).
            preferences: Shape (P, K).

        Returns:
            Shape (P, m), not negative.
        """
        width = self.vectors.shape[1]
        trees = np.stack(
            [tree.predict(features).reshape(len(features), width) for tree in self._model]
        )
        return np.stack([self._improvement(trees, preference) for preference in preferences])

    def _improvement(self, trees: np.ndarray, preference: np.ndarray) -> np.ndarray:
        utilities = tchebycheff(trees, preference)  # (trees, m)
        gap = utilities.mean(axis=0) - tchebycheff(self.vectors, preference).max()
        deviation = np.maximum(utilities.std(axis=0), 1e-12)
        improved = gap * norm.cdf(gap / deviation) + deviation * norm.pdf(gap / deviation)
        return np.asarray(np.maximum(improved, 0.0))

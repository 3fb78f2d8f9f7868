"""The surrogate: predicts the outcome of a complete path from few evaluations, whatever the policy.

One Gaussian process for each task's score over z*, or one Bayesian linear regression, which deep
paths and thousands of evaluations need, or a regressor of one's own (`surrogate.base`), or none.
See `surrogate.gp` for the kernel, `surrogate.linear` for the regression and `surrogate.features`
for what they see. The negative log-likelihoods stored with every evaluation are left out: on the
tiny zoo scores predicted by way of them were not predicted better
(experiments/agent_checks/likelihoods.py). A critic can be made to learn them (`agents.critics`).
"""

from __future__ import annotations

import numpy as np
import torch

from hm3rl import registry
from hm3rl.config.agents import SurrogateSettings
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.base import Regressor, RegressorFactory
from hm3rl.surrogate.dataset import Dataset
from hm3rl.surrogate.features import AuxiliaryData, FeatureMap
from hm3rl.surrogate.none import NoRegression

REFIT_GROWTH = 1.15
"""Hyper-parameters are adapted again when there are so many times as many paths as before."""

JITTER = 1e-4
"""Relative to the mean variance of the paths sampled together."""


class PathSurrogate:
    """Predicts vectors f / z* of complete paths.

    Args:
        space: The path space.
        objectives: K.
        settings: The regressor's name and options.
        auxiliary: Whole models that are no members, whose scores are known all the same: the
            merges the parameter level tried.
    """

    def __init__(
        self,
        space: PathSpace,
        objectives: int,
        settings: SurrogateSettings,
        auxiliary: AuxiliaryData | None = None,
    ) -> None:
        self.space = space
        self.objectives = objectives
        self.settings = settings
        self.auxiliary = auxiliary
        self.features = FeatureMap(space, auxiliary)
        self.scores = self._process()
        self._adapted_at = 0

    def _process(self) -> Regressor:
        """An unfitted model of K outputs."""
        make: RegressorFactory = registry.find("surrogate", self.settings.name).load()
        return make(self.objectives, self.features.depths, self.settings)

    @property
    def exists(self) -> bool:
        """Whether there is anything to fit; not with `surrogate=none`."""
        return not isinstance(self.scores, NoRegression)

    def fit(self, dataset: Dataset) -> None:
        """Condition on all successful evaluations, if it exists; needs at least two."""
        if not self.exists:
            return
        tokens, vectors = dataset.tokens, dataset.vectors
        steps = 0
        if self._adapted_at == 0:
            steps = self.settings.fit_steps
        elif len(tokens) >= REFIT_GROWTH * self._adapted_at:
            steps = self.settings.refit_steps
        if steps:
            self._adapted_at = len(tokens)
        self._condition(tokens, vectors, steps)

    def restore(self, dataset: Dataset) -> None:
        """Condition on stored evaluations with stored hyper-parameters."""
        if self.exists and len(dataset.vectors) > 1:
            self._adapted_at = len(dataset.vectors)
            self._condition(dataset.tokens, dataset.vectors, 0)

    def _condition(self, tokens: np.ndarray, vectors: np.ndarray, steps: int) -> None:
        features = self.features(tokens)
        if self.auxiliary is not None:
            features = features.stacked(self.features.auxiliary())
            vectors = np.concatenate([vectors, self.auxiliary.vectors])
        self.scores.fit(features, vectors, steps)

    @property
    def ready(self) -> bool:
        """Whether it has been fitted."""
        return self._adapted_at > 0

    def mean(self, tokens: np.ndarray) -> np.ndarray:
        """Expected f / z*, shape (n, K)."""
        return self.scores.mean(self.features(tokens))

    def predict(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Expected f / z* and its standard deviation, both of shape (n, K)."""
        mean, variance = self.scores.marginal(self.features(tokens))
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def samples(self, tokens: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Joint posterior samples of f / z*.

        Args:
            tokens: Rows of n paths.
            count: S.
            rng: Source of randomness.

        Returns:
            Shape (S, n, K).
        """
        mean, covariance = self.scores.posterior(self.features(tokens))
        spread = torch.as_tensor(covariance)
        size = spread.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
        # Near-equal paths make the covariance singular; the jitter is far below the noise.
        jitter = JITTER * size[:, None, None] * torch.eye(len(mean), dtype=torch.float64)
        root = torch.linalg.cholesky(spread + jitter)
        normal = torch.as_tensor(rng.standard_normal((self.objectives, len(mean), count)))
        return mean + (root @ normal).permute(2, 1, 0).numpy()

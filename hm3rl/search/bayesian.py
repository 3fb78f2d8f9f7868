"""The bridge to BoTorch: Gaussian processes over a unit box, and batches of promising vectors.

Observations, posterior and reference point are on one scale, f / z*; only inside the Gaussian
processes outcomes are standardised, and BoTorch undoes that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.parego import qLogNParEGO
from botorch.exceptions.errors import ModelFittingError
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.map_saas import get_map_saas_model
from botorch.models.transforms import Standardize
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from botorch.utils.sampling import manual_seed
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.warnings import NumericalWarning

from hm3rl.config.searchers import MmMoSizes

MOST_BOXES = 4
"""Objectives up to which hypervolume improvement is computed. Beyond, the boxes that make up the
dominated region are too many for each sample, and ParEGO's random scalarisations take its place."""

FIT_STEPS = 60
"""Most steps of fitting the hyper-parameters, which crawl on for hundreds when nothing changes."""

RAW_PER_RESTART = 16

# BoTorch compiles a kernel for this acquisition function at its first use, where it finds a
# compiler. Its digits differ from those of the Python form, so decisions would depend on the
# machine; and a run killed meanwhile leaves a lock on which every later one waits for ever.
logei._load_attempted = True


class Surrogate:
    """Independent Gaussian processes, one for each objective.

    Args:
        vectors: Observed vectors, shape (N, D), in [0, 1].
        outcomes: What was observed there, to be maximised, shape (N, M).
        reference: Point below which nothing counts, shape (M,), in the outcomes' units.
        settings: Sizes of samples and optimisations.
        seed: Seed of everything random here.
        sparse: Whether the prior says that few dimensions matter (SAAS; Eriksson and Jankowiak, UAI
            2021), here at its mode; if not, it is BoTorch's own.

    Attributes:
        fitted: Whether the hyper-parameters could be fitted; if not, they are BoTorch's priors'
            modes.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        outcomes: np.ndarray,
        reference: np.ndarray,
        settings: MmMoSizes,
        seed: int,
        sparse: bool = False,
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.reference = torch.as_tensor(reference, dtype=torch.float64)
        self.vectors = torch.as_tensor(vectors, dtype=torch.float64)
        targets = torch.as_tensor(outcomes, dtype=torch.float64)
        with _reproducible(seed):
            self.model = (get_map_saas_model if sparse else SingleTaskGP)(
                self.vectors, targets, outcome_transform=Standardize(targets.shape[1])
            )
            try:
                fit_gpytorch_mll(
                    ExactMarginalLogLikelihood(self.model.likelihood, self.model),
                    optimizer_kwargs={"options": {"maxiter": FIT_STEPS}},
                )
                self.fitted = True
            except ModelFittingError:
                self.fitted = False
        self.model.eval()

    def variance(self, vectors: np.ndarray) -> np.ndarray:
        """Posterior variances of the objectives themselves, without noise, shape (N, M)."""
        with torch.no_grad(), _reproducible(self.seed):
            posterior = self.model.posterior(torch.as_tensor(vectors, dtype=torch.float64))
            return posterior.variance.clamp(min=1e-12).numpy()

    def propose(
        self,
        count: int,
        boxes: Sequence[tuple[np.ndarray, np.ndarray]] = (),
        most: int = MOST_BOXES,
    ) -> np.ndarray:
        """Vectors that together promise most, found one after the other, shape (count, D).

        By log noisy expected hypervolume improvement (Daulton et al., NeurIPS 2021; Ament et al.,
        NeurIPS 2023), or with more than `most` objectives by log noisy ParEGO.

        Args:
            count: How many.
            boxes: Lower and upper corners, of shape (D,), of boxes that take turns: each vector
                lies in the next one; none: the unit box.
            most: Objectives up to which hypervolume improvement is computed.
        """
        width = self.vectors.shape[1]
        bounds = [
            torch.as_tensor(np.stack(corners), dtype=torch.float64)
            for corners in boxes or [(np.zeros(width), np.ones(width))]
        ]
        found = torch.empty(0, width, dtype=torch.float64)
        scalarised = len(self.reference) > most
        with _reproducible(self.seed):
            acquisition = self._scalarised(self.seed) if scalarised else self._improvement()
            for number in range(count):
                if number and scalarised:
                    acquisition = self._scalarised(self.seed + number)
                if number:
                    acquisition.set_X_pending(found)
                best, _ = optimize_acqf(
                    acquisition,
                    bounds[number % len(bounds)],
                    q=1,
                    num_restarts=self.settings.restarts,
                    raw_samples=RAW_PER_RESTART * self.settings.restarts,
                    options={"maxiter": self.settings.steps},
                    # A line search that gives up has found something nevertheless.
                    retry_on_optimization_warning=False,
                )
                found = torch.cat([found, best.detach()])
        return found.clamp(0.0, 1.0).numpy()

    def _improvement(self) -> AcquisitionFunction:
        """Expected hypervolume improvement; what is known is pruned once for all picks."""
        return logei.qLogNoisyExpectedHypervolumeImprovement(
            model=self.model,
            ref_point=self.reference,
            X_baseline=self.vectors,
            sampler=self._sampler(self.seed),
            prune_baseline=True,
        )

    def _scalarised(self, seed: int) -> AcquisitionFunction:
        """Expected improvement under weights at random."""
        return qLogNParEGO(
            model=self.model,
            X_baseline=self.vectors,
            sampler=self._sampler(seed),
            prune_baseline=True,
        )

    def _sampler(self, seed: int) -> SobolQMCNormalSampler:
        return SobolQMCNormalSampler(torch.Size([self.settings.samples]), seed=seed)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch's generator for a while and put its state back.

    BoTorch's advice on scaling, notes that a covariance needed jitter or that an optimiser stopped
    early, and torch's note on the sparse tensors of linear_operator are of no use to somebody who
    runs a search; errors still come through.
    """
    with warnings.catch_warnings(), manual_seed(seed):
        for kind in (BotorchWarning, NumericalWarning):
            warnings.simplefilter("ignore", category=kind)
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        yield

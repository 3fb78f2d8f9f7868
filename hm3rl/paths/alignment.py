"""Alignment between stitched layers in closed form: z' = W (z - mu) / sigma + b.

HM3 (arXiv 2409.18893) aligns what a path hands to a layer with what the layer is used to; where it
trains a network, these are the Gaussian solutions. With mean m and covariance S of the running,
already aligned path (source) and mean n and covariance T of the layer's native inputs (target):

- `scalar`: z' = s z, s = sqrt(E|target|^2 / E|source|^2); no shift, so it folds into a checkpoint
- `diagonal`: channel by channel, z' = sqrt(T_ii / S_ii) (z - m) + n
- `full`: the optimal transport map between the Gaussians, W = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2
- `full_paper`: W = T^1/2 S^-1/2; the same covariance, but not the nearest such map
- `mlp`: see `coral.py`
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hm3rl.paths.statistics import Moments

SHRINKAGE = 1e-3
"""Share of the mean channel variance added to every variance of source and target alike, so that
directions which a finite batch hardly shows are left nearly as they are."""


@dataclass(frozen=True)
class ScalarMap:
    """z' = factor * z.

    Attributes:
        key: What determines the map: kind, batch, everything below it, and the layer above.
        factor: s > 0.
    """

    key: str
    factor: float = field(compare=False)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states of shape (..., d)."""
        return hidden * self.factor

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return 8


@dataclass(frozen=True)
class AffineMap:
    """z' = W (z - source) + target, computed in fp32.

    Attributes:
        key: See `ScalarMap`.
        weight: Diagonal of W, shape (d,), or W, shape (d, d); fp32.
        source: Shape (d,).
        target: Shape (d,).
    """

    key: str
    weight: torch.Tensor = field(compare=False)
    source: torch.Tensor = field(compare=False)
    target: torch.Tensor = field(compare=False)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states of shape (..., d)."""
        centred = hidden.float() - self.source
        turned = centred * self.weight if self.weight.ndim == 1 else centred @ self.weight.T
        return (turned + self.target).to(hidden.dtype)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.weight.nbytes + self.source.nbytes + self.target.nbytes


def closed_form(
    kind: str, key: str, source: Moments, target: Moments, shrinkage: float = SHRINKAGE
) -> ScalarMap | AffineMap:
    """Fit one map.

    Args:
        kind: `scalar`, `diagonal`, `full` or `full_paper`.
        key: Key of the map.
        source: Moments of the running path.
        target: Moments of the layer's native inputs.
        shrinkage: See `SHRINKAGE`.

    Returns:
        The map.

    Raises:
        ArithmeticError: The states of the path are zero, NaN or infinite.
    """
    check_states(source)
    if kind == "scalar":
        return ScalarMap(key, (target.mean_square / source.mean_square) ** 0.5)
    if kind == "diagonal":
        ratio = _shrunk_variance(target, shrinkage) / _shrunk_variance(source, shrinkage)
        return AffineMap(key, ratio.sqrt().float(), source.mean.float(), target.mean.float())
    s, t = _shrunk(source, shrinkage), _shrunk(target, shrinkage)
    inverse = _power(s, -0.5)
    if kind == "full_paper":
        weight = _power(t, 0.5) @ inverse
    else:
        root = _power(s, 0.5)
        weight = inverse @ _power(root @ t @ root, 0.5) @ inverse
    return AffineMap(key, weight.float(), source.mean.float(), target.mean.float())


def check_states(source: Moments) -> None:
    """Refuse to align states that no map brings to the target's moments.

    Raises:
        ArithmeticError: The states of the path are zero, NaN or infinite.
    """
    if not (0 < source.mean_square < float("inf")):
        raise ArithmeticError(f"cannot align states whose mean square is {source.mean_square}")


def _shrunk_variance(moments: Moments, shrinkage: float) -> torch.Tensor:
    return moments.variance + shrinkage * moments.variance.mean()


def _shrunk(moments: Moments, shrinkage: float) -> torch.Tensor:
    assert moments.covariance is not None
    return moments.covariance + torch.diag_embed(
        (shrinkage * moments.variance.mean()).expand(len(moments.mean))
    )


def _power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    """Power of a symmetric positive semi-definite matrix, fp64."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    # What rounding made negative is zero; an inverse never sees it, thanks to the shrinkage.
    values = values.clamp(min=torch.finfo(values.dtype).eps * float(values.max()))
    return (vectors * values**exponent) @ vectors.T

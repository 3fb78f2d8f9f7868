"""Folding an alignment for export, and measuring what that costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from hm3rl.errors import InputError
from hm3rl.export.reload import probe_tokens
from hm3rl.paths.folding import fold_scalar

FOLD_TOLERANCE = 1e-2
"""Largest |difference| of logits over max |logit| between folded and aligned model; the norms' eps
makes it about 1e-4 to 1e-3."""

HALF_FOLD_TOLERANCE = 5e-2
"""The same for 16-bit precisions, which round the divided weights."""


@dataclass(frozen=True)
class FoldCheck:
    """What folding did.

    Attributes:
        factors: c_t of every layer, by which what it adds was divided.
        logit_error: max |folded - aligned| / max |aligned| over all positions of the probe.
        tolerance: What passes.
    """

    factors: list[float]
    logit_error: float
    tolerance: float

    def __str__(self) -> str:
        """Return a sentence for the card."""
        factors = ", ".join(f"{factor:.4g}" for factor in self.factors)
        return (
            "The path is aligned by one factor in front of each layer that does not follow its "
            "original neighbour. The factors are folded into the weights: what the layers add to "
            f"the residual stream is divided by {factors}. That is exact up to the norms' eps: the "
            f"logits are within {self.logit_error:.1e} of the aligned model's (relative to the "
            f"largest logit, {self.tolerance:.0e} allowed)."
        )


@torch.no_grad()
def fold_checked(aligned: PreTrainedModel) -> tuple[PreTrainedModel, FoldCheck]:
    """Fold the alignments of an assembled model and compare the two.

    Args:
        aligned: Model of a candidate that `check_foldable` accepts.

    Returns:
        The folded model and how far it is off.

    Raises:
        InputError: Farther than allowed.
    """
    folded = fold_scalar(aligned)
    tolerance = FOLD_TOLERANCE if aligned.dtype == torch.float32 else HALF_FOLD_TOLERANCE
    tokens = probe_tokens(aligned.config).to(aligned.device)
    wanted, found = aligned(tokens).logits.float(), folded.model(tokens).logits.float()
    error = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)).item()
    if not error <= tolerance:
        raise InputError(
            f"folding the alignment changes the logits by {error:.1e} of the largest, "
            f"{tolerance:.0e} allowed",
            "export another model of the front, or search without alignment",
        )
    return folded.model, FoldCheck(list(folded.factors), error, tolerance)

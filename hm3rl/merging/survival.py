"""Which entries of a task vector survive random dropping (DARE, DELLA).

Seeded by (seed, tensor name, expert name) and drawn on the CPU in the order of the entries, so what
survives depends neither on the order of calls nor on the device nor on how a tensor is cut up.
"""

from __future__ import annotations

import hashlib

import torch


def survival_generator(seed: int, tensor: str, expert: str) -> torch.Generator:
    """Return the source of randomness for one tensor of one expert."""
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def keep_probabilities(delta: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """DELLA's probabilities: linear in the rank by magnitude among the entries of a row.

    Args:
        delta: A task vector's tensor; its rows run along the last dimension.
        density: Mean probability.
        epsilon: Half the width: from density - epsilon (smallest) to density + epsilon (largest).

    Returns:
        fp32, shape of `delta`. Equal magnitudes are ranked by position; a row of one entry has
        probability `density`.
    """
    width = delta.shape[-1] if delta.dim() else 1
    if width == 1:
        return torch.full_like(delta, density)
    ranks = delta.abs().argsort(dim=-1, stable=True).argsort(dim=-1)
    return density - epsilon + 2 * epsilon / (width - 1) * ranks.to(delta.dtype)


def survival_factors(
    delta: torch.Tensor, density: float, epsilon: float, seed: int, tensor: str, expert: str
) -> torch.Tensor:
    """Draw the factor of each entry: 0 where it is dropped.

    Args:
        delta: The task vector's tensor.
        density: Share of entries that survive, in (0, 1].
        epsilon: DELLA's window; 0: all entries survive with the same probability (DARE).
        seed: The recipe's seed.
        tensor: Name of the tensor.
        expert: Name of the expert.

    Returns:
        fp32, shape and device of `delta`: survivors have 1, or with a window one over their own
        probability. Survivors of one seed are nested in the density.
    """
    if density == 1.0:
        return torch.ones_like(delta)
    drawn = torch.rand(delta.shape, generator=survival_generator(seed, tensor, expert))
    drawn = drawn.to(delta.device)
    if epsilon == 0.0:
        return (drawn < density).to(delta.dtype)
    probabilities = keep_probabilities(delta, density, epsilon)
    return (drawn < probabilities) / probabilities

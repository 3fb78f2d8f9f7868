"""Which entries of a task vector survive random dropping (DARE, DELLA).

Seeded by (seed, tensor name, expert name) and drawn on the CPU in the order of the entries, so what
survives depends neither on the order of calls nor on the device nor on how a tensor is cut up.
"""

from __future__ import annotations

import hashlib

import torch


class Survival:
    """Draws what survives of one tensor of one expert, piece after piece from its beginning.

    Args:
        density: Share of entries that survive, in (0, 1].
        epsilon: DELLA's window; 0: all entries survive with the same probability (DARE).
        seed: The recipe's seed.
        tensor: Name of the tensor.
        expert: Name of the expert.
        row: Length of a row of the tensor.
    """

    def __init__(
        self, density: float, epsilon: float, seed: int, tensor: str, expert: str, row: int
    ) -> None:
        self.density = density
        self.epsilon = epsilon
        self.row = row
        digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def draw(self, count: int) -> torch.Tensor:
        """Draw for the next entries: those below the density survive; zeros at density 1."""
        if self.density == 1.0:
            return torch.zeros(count)
        return torch.rand(count, generator=self._generator)

    def __call__(self, delta: torch.Tensor) -> None:
        """Drop entries of the next piece, in place.

        Survivors of one seed are nested in the density.

        Args:
            delta: The piece, fp32, shape (N,), N a multiple of the row, any device. Survivors keep
                their value or, with a window, are divided by their own probability of surviving.
        """
        if self.density == 1.0:
            return
        drawn = self.draw(delta.numel()).to(delta.device)
        if self.epsilon == 0.0:
            delta.mul_(drawn.lt_(self.density))
            return
        probabilities = keep_probabilities(delta.reshape(-1, self.row), self.density, self.epsilon)
        delta.mul_(drawn.lt_(probabilities.flatten())).div_(probabilities.flatten())


def keep_probabilities(delta: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """DELLA's probabilities: linear in the rank by magnitude among the entries of a row.

    Args:
        delta: Rows of a task vector's tensor, shape (R, width).
        density: Mean probability.
        epsilon: Half the width: from density - epsilon (smallest) to density + epsilon (largest).

    Returns:
        fp32, shape of `delta`. Equal magnitudes are ranked by position; a row of one entry has
        probability `density`.
    """
    width = delta.shape[-1]
    if width == 1:
        return torch.full_like(delta, density)
    # One integer holds magnitude and position: its sort is stable, and numpy's, which uses vector
    # instructions, takes a hundredth of torch's time.
    positions = torch.arange(width, device=delta.device)
    keys = (delta.contiguous().view(torch.int32) & 0x7FFFFFFF).long() << 32 | positions
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=-1)
    else:
        keys = keys.sort(dim=-1).values
    chances = density - epsilon + 2 * epsilon / (width - 1) * positions.to(delta.dtype)
    return torch.empty_like(delta).scatter_(1, keys & 0xFFFFFFFF, chances.expand_as(delta))

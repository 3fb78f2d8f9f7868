"""How well experts go together, by their weights alone: task vectors, layer by layer.

Task vectors that are small beside the base, at right angles to each other and agree where both move
a weight can be added with little harm (Ilharco et al., arXiv 2212.04089; Yadav et al., arXiv
2306.01708, on conflicting signs). None of that foretells a merge's scores; reference merges do
(`hm3rl.merging.references`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hm3rl.merging.task_vectors import TaskVectors

STEM = "stem"
"""What a table calls all tensors outside the layers: embedding, final norm, head."""

UNRELATED = 0.5
"""Share of conflicting signs of task vectors that know nothing of each other."""


@dataclass(frozen=True)
class Mergeability:
    """Facts about the task vectors of N experts, for each of P places of the model.

    Attributes:
        experts: Their names.
        places: `stem`, then the number of each layer.
        sizes: Norm of a task vector over that of the base's weights, shape (P, N).
        cosines: Of each two task vectors, shape (P, N, N), in [-1, 1]; 0 with one that is 0.
        conflicts: Share of the entries that both of two task vectors change in which they do it
            with other signs, shape (P, N, N), in [0, 1]; 0 where there is none.
        whole_sizes: Sizes over the whole model, shape (N,).
        whole_cosines: Cosines over the whole model, shape (N, N).
        whole_conflicts: Conflicts over the whole model, shape (N, N).
    """

    experts: tuple[str, ...]
    places: tuple[str, ...]
    sizes: np.ndarray
    cosines: np.ndarray
    conflicts: np.ndarray
    whole_sizes: np.ndarray
    whole_cosines: np.ndarray
    whole_conflicts: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """As a JSON-ready mapping."""
        arrays = ("sizes", "cosines", "conflicts")
        found: dict[str, Any] = {"experts": list(self.experts), "places": list(self.places)}
        for name in (*arrays, *(f"whole_{name}" for name in arrays)):
            found[name] = np.round(getattr(self, name), 4).tolist()
        return found

    def pairs(self) -> list[tuple[int, int]]:
        """Numbers of each two experts, the smaller first."""
        count = len(self.experts)
        return [(a, b) for a in range(count) for b in range(a + 1, count)]


@torch.no_grad()
def mergeability(vectors: TaskVectors) -> Mergeability:
    """Read all task vectors once and compare them.

    Args:
        vectors: Of the experts that can be merged.
    """
    experts = vectors.pool.expert_names
    count, layers = len(experts), vectors.pool.num_layers
    grams = np.zeros((layers + 1, count + 1, count + 1))
    shared, against = np.zeros((2, layers + 1, count, count))
    for name in vectors.mergeable:
        layer = vectors.place(name).layer
        place = 0 if layer is None else layer + 1
        grams[place] += vectors.gram(name).cpu().numpy()
        for deltas in vectors.pieces(name, experts).deltas():
            signs = deltas.sign().double()
            moved = signs.abs()
            both = (moved @ moved.T).cpu().numpy()
            shared[place] += both
            against[place] += (both - (signs @ signs.T).cpu().numpy()) / 2
    return Mergeability(
        experts,
        (STEM, *map(str, range(layers))),
        *_compared(grams, shared, against),
        *_compared(grams.sum(axis=0), shared.sum(axis=0), against.sum(axis=0)),
    )


def _compared(
    grams: np.ndarray, shared: np.ndarray, against: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, cosines and conflicts from inner products (the base first) and counts of entries."""
    norms = np.sqrt(np.einsum("...ii->...i", grams))
    base, theirs = norms[..., :1], norms[..., 1:]
    sizes = np.divide(theirs, base, out=np.zeros_like(theirs), where=base > 0)
    product = theirs[..., :, None] * theirs[..., None, :]
    inner = grams[..., 1:, 1:]
    cosines = np.divide(inner, product, out=np.zeros_like(inner), where=product > 0)
    conflicts = np.divide(against, shared, out=np.zeros_like(against), where=shared > 0)
    return sizes, cosines, conflicts


def described(found: Mergeability) -> Mapping[str, str]:
    """The facts over the whole model in words, by expert and pair."""
    facts = {
        f"task vector of {name}": f"{size:.1%} of the base's weights, by norm"
        for name, size in zip(found.experts, found.whole_sizes, strict=True)
    }
    for a, b in found.pairs():
        cosine, conflict = found.whole_cosines[a, b], found.whole_conflicts[a, b]
        worst = 1 + int(found.conflicts[1:, a, b].argmax())
        facts[f"{found.experts[a]} and {found.experts[b]}"] = (
            f"cosine {cosine:+.2f}, signs conflict in {conflict:.0%} of the entries that both "
            f"change ({UNRELATED:.0%}: unrelated), most in layer {found.places[worst]} "
            f"({found.conflicts[worst, a, b]:.0%})"
        )
    return facts

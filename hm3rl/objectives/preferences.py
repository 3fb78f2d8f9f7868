"""Preferences: points lambda on the probability simplex, one weight for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

from hm3rl.errors import InputError

FloatArray = np.ndarray


def sample_dirichlet(n: int, k: int, rng: np.random.Generator) -> FloatArray:
    """Draw preferences uniformly from the simplex, lambda ~ Dirichlet(1, ..., 1) (HM3, section 2).

    Args:
        n: How many.
        k: Number of objectives.
        rng: Source of randomness.

    Returns:
        Array of shape (n, k); rows are non-negative and sum to 1.
    """
    return rng.dirichlet(np.ones(k), size=n)


def sample_faces(n: int, k: int, rng: np.random.Generator) -> FloatArray:
    """Draw preferences half from the whole simplex and half from its faces.

    With many objectives the uniform distribution hardly ever comes near a preference for one or
    two of them. Each draw from a face has a random number of objectives (1 to k), random ones, and
    weights uniform among them.

    Args:
        n: How many.
        k: Number of objectives.
        rng: Source of randomness.

    Returns:
        Array of shape (n, k); rows are non-negative and sum to 1.
    """
    weights = rng.exponential(size=(n, k))
    sizes = np.where(rng.random(n) < 0.5, k, rng.integers(1, k + 1, size=n))
    rank = rng.random((n, k)).argsort(axis=1).argsort(axis=1)
    weights[rank >= sizes[:, None]] = 0.0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def simplex_lattice(k: int, h: int) -> FloatArray:
    """All points of the simplex whose coordinates are multiples of 1/h (Das and Dennis, 1998).

    Args:
        k: Number of objectives, at least 1.
        h: Divisions of each axis, at least 1.

    Returns:
        Array of shape (C(h+k-1, k-1), k), in lexicographic order, descending in the first
        coordinate.
    """
    if k < 1 or h < 1:
        raise ValueError(f"simplex_lattice needs k >= 1 and h >= 1, got k={k}, h={h}")
    rows: list[tuple[int, ...]] = []

    def fill(prefix: tuple[int, ...], left: int) -> None:
        if len(prefix) == k - 1:
            rows.append((*prefix, left))
            return
        for value in range(left, -1, -1):
            fill((*prefix, value), left - value)

    fill((), h)
    assert len(rows) == comb(h + k - 1, k - 1)
    return np.asarray(rows, dtype=np.float64) / h


def snap_to_lattice(preference: Sequence[float] | FloatArray, h: int) -> FloatArray:
    """The lattice point nearest to a preference, by largest remainders, so that it still sums to 1.

    Args:
        preference: Shape (k,), on the simplex.
        h: Divisions of each axis.

    Returns:
        Array of shape (k,), multiples of 1/h that sum to 1.
    """
    scaled = np.asarray(preference, dtype=np.float64) * h
    floor = np.floor(scaled + 1e-9)
    missing = round(h - floor.sum())
    # Largest remainders first; ties go to the lower index, so that the result never depends on
    # sorting.
    order = np.argsort(-(scaled - floor), kind="stable")
    floor[order[:missing]] += 1
    return floor / h


def parse_preference(weights: Mapping[str, float], objectives: Sequence[str]) -> FloatArray:
    """Turn named weights into a point of the simplex; objectives that are not named get weight 0.

    Args:
        weights: Non-negative weight by objective, for example {"translation": 2, "math": 1}.
        objectives: The objectives, in the order of the score vectors.

    Returns:
        Array of shape (K,) that sums to 1.

    Raises:
        InputError: An unknown name, a weight that is negative or not finite, or a sum of zero.
    """
    known = ", ".join(objectives)
    unknown = [name for name in weights if name not in objectives]
    if unknown:
        raise InputError(
            f"preference names no task of this run: {', '.join(unknown)}", f"the tasks are: {known}"
        )
    vector = np.array([float(weights.get(name, 0.0)) for name in objectives])
    for name, value in zip(objectives, vector, strict=True):
        if not np.isfinite(value) or value < 0:
            raise InputError(
                f"preference {name}={value} is not a non-negative number",
                "use weights such as math=2 code=1",
            )
    total = vector.sum()
    if total == 0:
        raise InputError(
            "the preference sums to zero", f"give at least one of {known} a positive weight"
        )
    return vector / total


def parse_bounds_text(tokens: Sequence[str], objectives: Sequence[str]) -> dict[str, float]:
    """Parse `math=0.6 code=0.5`, scores that a model must have.

    Args:
        tokens: Words of the form name=number; commas between them are allowed.
        objectives: The objectives.

    Returns:
        Number by objective.

    Raises:
        InputError: A word that is not name=number, an unknown name, or one given twice.
    """
    bounds = _named_numbers(
        tokens, "a minimum score", f"task=score, for example {objectives[0]}=0.6"
    )
    unknown = [name for name in bounds if name not in objectives]
    if unknown:
        raise InputError(
            f"a minimum score names no task of this run: {', '.join(unknown)}",
            f"the tasks are: {', '.join(objectives)}",
        )
    return bounds


def parse_preference_text(tokens: Sequence[str], objectives: Sequence[str]) -> FloatArray:
    """Parse `math=2 code=1` as given on a command line.

    Args:
        tokens: Words of the form name=number; commas between them are allowed.
        objectives: The objectives, in the order of the score vectors.

    Returns:
        Array of shape (K,) that sums to 1.

    Raises:
        InputError: A word that is not name=number, a name given twice, or anything
            `parse_preference` refuses.
    """
    example = f"task=weight, for example {objectives[0]}=2"
    return parse_preference(_named_numbers(tokens, "a preference", example), objectives)


def _named_numbers(tokens: Sequence[str], what: str, example: str) -> dict[str, float]:
    """Read words of the form name=number, commas between them allowed."""
    found: dict[str, float] = {}
    for word in [part for token in tokens for part in token.replace(",", " ").split()]:
        name, separator, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            separator = ""
        if not separator:
            raise InputError(f"cannot read {word!r} as {what}", f"write {example}")
        if name in found:
            raise InputError(f"{what} for {name} is given twice", "give each task once")
        found[name] = value
    return found

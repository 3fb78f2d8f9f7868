"""`MergeRecipe`: everything that determines merged weights, besides the sources themselves.

Recipes are values. Two recipes that give the same weights by construction are equal and have the
same key: settings that the operator ignores are reset, floats are rounded to ten digits, experts
are sorted by name and experts of weight zero are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hm3rl.errors import InputError
from hm3rl.models.hashing import short_hash

MERGED_PREFIX = "merged@"
"""Names of merged members begin with this and go on with the first digits of the recipe's key."""

NAME_DIGITS = 8


@dataclass(frozen=True)
class OperatorTraits:
    """Which settings an operator listens to.

    Attributes:
        density: Whether it drops or trims entries.
        scale: Whether the merged task vector is multiplied by `scale`.
        random: Whether it draws masks, and so needs `seed`.
        normalise: Value of `normalise` where the recipe does not say; None: there is no choice.
        experts: Exact number of experts it takes, or None for any.
    """

    density: bool = False
    scale: bool = True
    random: bool = False
    normalise: bool | None = None
    experts: int | None = None


OPERATOR_TRAITS: dict[str, OperatorTraits] = {
    "linear": OperatorTraits(scale=False, normalise=True),
    "slerp": OperatorTraits(scale=False, experts=2),
    "task_arithmetic": OperatorTraits(normalise=False),
    "ties": OperatorTraits(density=True, normalise=True),
    "dare_linear": OperatorTraits(density=True, random=True, normalise=False),
    "dare_ties": OperatorTraits(density=True, random=True, normalise=True),
    "hm3_eq5": OperatorTraits(density=True, scale=False, random=True),
}
"""Traits by operator name; `hm3rl.merging.operators` holds the functions."""


@dataclass(frozen=True)
class MergeRecipe:
    """How to merge experts into one set of weights.

    Attributes:
        operator: A key of `OPERATOR_TRAITS`.
        weights: Pairs (expert, weight); canonical order, zero weights dropped.
        density: Share of each task vector's entries that is kept, in (0, 1].
        scale: Factor on the merged task vector (task arithmetic needs 0.6 to 3 in practice).
        seed: Seed of the random masks, 0 or more.
        normalise: Whether weights (linear, task_arithmetic, dare_linear) are divided by their sum,
            or each entry (ties, dare_ties) by the weight that agrees with the elected sign;
            None takes the operator's default.
        densities: Pairs (expert, density) that overrule `density` for single experts (MM-MO).
    """

    operator: str
    weights: tuple[tuple[str, float], ...]
    density: float = 1.0
    scale: float = 1.0
    seed: int = 0
    normalise: bool | None = None
    densities: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Check every setting and bring the recipe into canonical form."""
        traits = OPERATOR_TRAITS.get(self.operator)
        if traits is None:
            raise InputError(
                f"unknown merge operator {self.operator!r}",
                f"operators: {', '.join(OPERATOR_TRAITS)}",
            )
        weights = _canonical_pairs(self.weights, "weights")
        kept = tuple((name, weight) for name, weight in weights if weight != 0.0)
        densities = tuple(
            (n, d) for n, d in _canonical_pairs(self.densities, "densities") if n in dict(kept)
        )
        for value in (self.density, *(d for _, d in densities)):
            if not 0.0 < value <= 1.0:
                raise InputError(f"density {value} is outside (0, 1]", "give a share of entries")
        if not math.isfinite(self.scale):
            raise InputError(f"scale {self.scale} is not a number", "give a finite scale")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative", "give 0 or a positive integer")
        if traits.experts is not None and len(kept) != traits.experts:
            raise InputError(
                f"{self.operator} merges exactly {traits.experts} experts, {len(kept)} have weight",
                "set the other weights to zero or take another operator",
            )
        if self.operator == "slerp" and any(weight < 0 for _, weight in kept):
            raise InputError("slerp has a negative weight", "give two positive weights")
        default = self.density if traits.density else 1.0
        common = len(densities) == len(kept) and len({d for _, d in densities}) == 1
        if not traits.density:
            densities = ()
        elif common and densities:
            default, densities = densities[0][1], ()
        else:
            densities = tuple((n, d) for n, d in densities if d != _rounded(default))
        normalise = traits.normalise
        if normalise is not None and self.normalise is not None:
            normalise = self.normalise
        total = math.fsum(weight for _, weight in kept)
        by_sum = normalise and self.operator in ("linear", "task_arithmetic", "dare_linear")
        if by_sum and abs(total) < 1e-6:
            raise InputError(
                f"the weights of a normalised {self.operator} merge sum to {total:g}",
                "give weights with a positive sum, or set normalise to false",
            )
        assign = object.__setattr__
        assign(self, "weights", kept)
        assign(self, "density", _rounded(default))
        assign(self, "densities", densities)
        assign(self, "scale", _rounded(self.scale) if traits.scale else 1.0)
        assign(self, "seed", int(self.seed) if traits.random else 0)
        assign(self, "normalise", normalise)

    @classmethod
    def of(cls, operator: str, weights: Mapping[str, float], **settings: Any) -> MergeRecipe:
        """Build a recipe from a mapping of weights."""
        return cls(operator, tuple(weights.items()), **settings)

    @property
    def key(self) -> str:
        """Content hash of the recipe, 16 hexadecimal digits."""
        return short_hash(self.to_dict())

    @property
    def name(self) -> str:
        """Name of the merged member, e.g. `merged@3fa9c1d2`."""
        return MERGED_PREFIX + self.key[:NAME_DIGITS]

    @property
    def experts(self) -> tuple[str, ...]:
        """Experts with a weight, sorted by name."""
        return tuple(name for name, _ in self.weights)

    def density_of(self, expert: str) -> float:
        """Share of this expert's entries that is kept."""
        return dict(self.densities).get(expert, self.density)

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form as plain data."""
        plain: dict[str, Any] = {
            "operator": self.operator,
            "weights": dict(self.weights),
            "density": self.density,
            "scale": self.scale,
            "seed": self.seed,
            "normalise": self.normalise,
        }
        if self.densities:
            plain["densities"] = dict(self.densities)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MergeRecipe:
        """Rebuild a recipe from `to_dict`, or from hand-written data with defaults left out.

        Raises:
            InputError: An entry is unknown or missing.
        """
        known = set(cls.__dataclass_fields__)
        unknown = sorted(set(plain) - known)
        if unknown or "operator" not in plain or "weights" not in plain:
            what = f"has unknown entries {unknown}" if unknown else "lacks operator or weights"
            raise InputError(f"the merge recipe {what}", f"entries: {', '.join(sorted(known))}")
        settings = {k: v for k, v in plain.items() if k not in ("operator", "weights", "densities")}
        return cls(
            str(plain["operator"]),
            tuple(dict(plain["weights"]).items()),
            densities=tuple(dict(plain.get("densities", {})).items()),
            **settings,
        )


def _rounded(value: float) -> float:
    """Round to ten significant digits, so that 0.1 + 0.2 and 0.3 are one weight."""
    return float(f"{float(value):.10g}") + 0.0


def _canonical_pairs(
    pairs: tuple[tuple[str, float], ...], what: str
) -> tuple[tuple[str, float], ...]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise InputError(f"the recipe's {what} name an expert twice", "name each expert once")
    for name, value in pairs:
        if not math.isfinite(value):
            raise InputError(f"{what}: {name} has {value}", "give finite numbers")
    return tuple(sorted((str(name), _rounded(value)) for name, value in pairs))

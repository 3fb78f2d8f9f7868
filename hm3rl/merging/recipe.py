"""`MergeRecipe`: everything that determines merged weights, besides the sources themselves.

Recipes are values. Two recipes that give the same weights by construction are equal and have the
same key: settings that the operator ignores are reset, floats are rounded to ten digits, experts
are sorted by name, experts of weight zero are dropped, and profiles that are constant become plain
numbers. A recipe that does not use a later addition has the key it had before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from hm3rl.errors import InputError
from hm3rl.merging.blend import blend_of, is_blend
from hm3rl.merging.profile import Place, Profile, rounded
from hm3rl.merging.traits import OperatorTraits, traits_of
from hm3rl.models.hashing import short_hash

MERGED_PREFIX = "merged@"
"""Names of merged members begin with this and go on with the first digits of the recipe's key."""

NAME_DIGITS = 8

Pairs = tuple[tuple[str, float], ...]
Profiles = tuple[tuple[str, Profile], ...]


EPSILON, GAMMA = 0.15, 0.01
"""Values where a recipe does not say: mergekit's, or as much as the density leaves room for."""


@dataclass(frozen=True)
class MergeRecipe:
    """How to merge experts into one set of weights.

    Attributes:
        operator: The name of an operator (`hm3rl.merging.traits`).
        weights: Pairs (expert, weight); canonical order, zero weights dropped. For an expert with a
            weight profile it is the profile's mean, whatever was given.
        density: Share of each task vector's entries that is kept, in (0, 1].
        scale: Factor on the merged task vector (task arithmetic needs 0.6 to 3 in practice).
        seed: Seed of the random masks, 0 or more.
        normalise: Whether weights (linear, task_arithmetic, and the sums of sparse task vectors)
            are divided by their sum, or each entry (where a sign is elected) by the weight that
            agrees with it; None takes the operator's default.
        densities: Pairs (expert, density) that overrule `density` for single experts (MM-MO).
        epsilon: DELLA's window: an entry is kept with a probability from density - epsilon
            (smallest of its row) to density + epsilon (largest), both in (0, 1).
        gamma: Breadcrumbs' share of largest entries that are removed, in [0, 1 - density].
            Epsilon and gamma are 0 at density 1, where nothing is removed, and None where the
            operator does not listen to them; None given takes the default.
        weight_profiles: Pairs (expert, profile) of weights that vary by block or over depth.
        density_profiles: Pairs (expert, profile) of densities that do.
    """

    operator: str
    weights: Pairs
    density: float = 1.0
    scale: float = 1.0
    seed: int = 0
    normalise: bool | None = None
    densities: Pairs = ()
    epsilon: float | None = None
    gamma: float | None = None
    weight_profiles: Profiles = ()
    density_profiles: Profiles = ()

    def __post_init__(self) -> None:
        """Check every setting and bring the recipe into canonical form."""
        traits = traits_of(self.operator)
        weights, weight_profiles = _canonical(self.weights, self.weight_profiles, "weights")
        weights = tuple((n, w) for n, w in weights if w != 0.0 or n in dict(weight_profiles))
        if not traits.weighted:
            weights, weight_profiles = tuple((name, 1.0) for name, _ in weights), ()
        if not math.isfinite(self.scale):
            raise InputError(f"scale {self.scale} is not a number", "give a finite scale")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative", "give 0 or a positive integer")
        normalise = traits.normalise
        if normalise is not None and self.normalise is not None:
            normalise = self.normalise
        assign = object.__setattr__
        assign(self, "weights", weights)
        assign(self, "weight_profiles", weight_profiles)
        assign(self, "scale", rounded(self.scale) if traits.scale else 1.0)
        assign(self, "seed", int(self.seed) if traits.random else 0)
        assign(self, "normalise", normalise)
        self._settle_densities(traits)
        self._check_weights(traits)

    def _settle_densities(self, traits: OperatorTraits) -> None:
        """Bring densities and what depends on them into canonical form."""
        experts = set(self.experts)
        densities, profiles = _canonical(
            tuple(pair for pair in self.densities if pair[0] in experts),
            tuple(pair for pair in self.density_profiles if pair[0] in experts),
            "densities",
        )
        densities = tuple(pair for pair in densities if pair[0] not in dict(profiles))
        anchors = [value for _, profile in profiles for value in profile.anchors]
        for value in (self.density, *(d for _, d in densities), *anchors):
            if not 0.0 < value <= 1.0:
                raise InputError(f"density {value} is outside (0, 1]", "give a share of entries")
        default = rounded(self.density) if traits.density else 1.0
        if not traits.density:
            densities, profiles = (), ()
        elif densities and len(densities) == len(experts) and len({d for _, d in densities}) == 1:
            default, densities = densities[0][1], ()
        elif profiles and len(densities) + len(profiles) == len(experts):
            default = 1.0  # no expert is left that would take it
        else:
            densities = tuple((n, d) for n, d in densities if d != default)
        assign = object.__setattr__
        assign(self, "density", default)
        assign(self, "densities", densities)
        assign(self, "density_profiles", profiles)
        used = [self.density_of(e) for e in self.experts if e not in dict(profiles)]
        # A density of 1 removes nothing, but a profile that reaches 1 passes through what is below.
        thin = [d for d in used if d < 1.0] + [v for _, p in profiles for v in p.anchors]
        assign(self, "epsilon", _epsilon(self.epsilon, thin) if traits.epsilon else None)
        assign(self, "gamma", _gamma(self.gamma, thin) if traits.gamma else None)

    def _check_weights(self, traits: OperatorTraits) -> None:
        count = len(self.weights)
        if traits.experts is not None and count != traits.experts:
            raise InputError(
                f"{self.operator} merges exactly {traits.experts} experts, {count} have weight",
                "set the other weights to zero or take another operator",
            )
        if 0 < count < traits.fewest:
            raise InputError(
                f"{self.operator} merges at least {traits.fewest} experts, {count} has weight",
                "give more experts a weight or take another operator",
            )
        profiled = [weight for _, profile in self.weight_profiles for weight in profile.anchors]
        lowest = min([weight for _, weight in self.weights] + profiled, default=0.0)
        if traits.by_sum is None and lowest < 0:
            raise InputError(f"{self.operator} has a negative weight", "give positive weights")
        if count and not self.weight_profiles:
            self.check_sum([weight for _, weight in self.weights], "the")

    def check_sum(self, weights: Sequence[float], whose: str) -> None:
        """Require that weights which are divided by their sum have one.

        Args:
            weights: Weights at one place of the model.
            whose: How the message names the place.

        Raises:
            InputError: They sum to zero.
        """
        by_sum = traits_of(self.operator).by_sum
        if (by_sum is None or (by_sum and self.normalise)) and abs(math.fsum(weights)) < 1e-6:
            raise InputError(
                f"{whose} weights of a normalised {self.operator} merge sum to "
                f"{math.fsum(weights):g}",
                "give weights with a positive sum, or set normalise to false",
            )

    @classmethod
    def of(cls, operator: str, weights: Mapping[str, Any], **settings: Any) -> MergeRecipe:
        """Build a recipe from mappings, as in a file.

        Args:
            operator: Name of the operator.
            weights: Weight by expert: a number, or what `Profile.of` reads.
            **settings: Other attributes; `densities` may be a mapping of the same kind.

        Raises:
            InputError: A setting is out of its range.
        """
        numbers, profiles = _read(weights.items())
        given = settings.pop("densities", ())
        pairs = given.items() if isinstance(given, Mapping) else given
        densities, density_profiles = _read(pairs)
        return cls(
            operator,
            numbers,
            **{
                "densities": densities,
                "weight_profiles": profiles,
                "density_profiles": density_profiles,
                **settings,
            },
        )

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

    @property
    def varies(self) -> bool:
        """Whether a weight or density differs between places of the model."""
        return bool(self.weight_profiles or self.density_profiles)

    def density_of(self, expert: str) -> float:
        """Share of this expert's entries that is kept; of a profile, the mean."""
        profile = dict(self.density_profiles).get(expert)
        return profile.mean if profile else dict(self.densities).get(expert, self.density)

    def weights_at(self, place: Place) -> tuple[float, ...]:
        """Return the weights of `experts` for a tensor at this place, shape (K,)."""
        profiles = dict(self.weight_profiles)
        return tuple(profiles[e].at(place) if e in profiles else w for e, w in self.weights)

    def densities_at(self, place: Place) -> tuple[float, ...]:
        """Return the densities of `experts` for a tensor at this place, shape (K,)."""
        profiles = dict(self.density_profiles)
        return tuple(
            profiles[e].at(place) if e in profiles else self.density_of(e) for e in self.experts
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form as plain data."""
        plain: dict[str, Any] = {
            "operator": self.operator,
            "weights": _written(self.weights, self.weight_profiles),
            "density": self.density,
            "scale": self.scale,
            "seed": self.seed,
            "normalise": self.normalise,
        }
        if self.densities or self.density_profiles:
            plain["densities"] = _written(self.densities, self.density_profiles)
        for name in ("epsilon", "gamma"):
            if getattr(self, name) is not None:
                plain[name] = getattr(self, name)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> MergeRecipe:
        """Rebuild a recipe from `to_dict`, or from hand-written data with defaults left out.

        Raises:
            InputError: An entry is unknown, missing or of the wrong type.
        """
        known = set(cls.__dataclass_fields__) - {"weight_profiles", "density_profiles"}
        unknown = sorted(set(plain) - known)
        if unknown or "operator" not in plain or "weights" not in plain:
            what = f"has unknown entries {unknown}" if unknown else "lacks operator or weights"
            raise InputError(f"the merge recipe {what}", f"entries: {', '.join(sorted(known))}")
        if not isinstance(plain["weights"], Mapping):
            raise InputError(
                f"the merge recipe's weights are {plain['weights']!r}", "write EXPERT: WEIGHT lines"
            )
        for name, kind in _KINDS.items():
            value = plain.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise InputError(f"the merge recipe's {name} is {value!r}", "give a number")
        settings = {k: v for k, v in plain.items() if k not in ("operator", "weights")}
        return cls.of(str(plain["operator"]), plain["weights"], **settings)


def names_merge(member: str) -> bool:
    """Whether a member's name is that of a merged member or a blend, not of a source."""
    return member.startswith(MERGED_PREFIX) or is_blend(member)


def blend_recipe(name: str) -> MergeRecipe:
    """The recipe of a blend, by its name: task arithmetic with scale 1.

    Raises:
        InputError: It is no blend.
    """
    return MergeRecipe.of("task_arithmetic", blend_of(name))


_KINDS: dict[str, Any] = {
    "density": Real,
    "scale": Real,
    "seed": int,
    "epsilon": Real | None,
    "gamma": Real | None,
}


def _read(pairs: Iterable[tuple[str, Any]]) -> tuple[Pairs, Profiles]:
    """Tell plain numbers from profiles."""
    pairs = tuple(pairs)
    varying = [isinstance(value, Mapping | list | tuple) for _, value in pairs]
    numbers = tuple(pair for pair, varies in zip(pairs, varying, strict=True) if not varies)
    profiles = [pair for pair, varies in zip(pairs, varying, strict=True) if varies]
    return numbers, tuple((name, Profile.of(value)) for name, value in profiles)


def _written(pairs: Pairs, profiles: Profiles) -> dict[str, Any]:
    return {**dict(pairs), **{name: profile.plain() for name, profile in profiles}}


def _canonical(pairs: Pairs, profiles: Profiles, what: str) -> tuple[Pairs, Profiles]:
    """Sort by expert, round, put in the profiles' means, and drop constant profiles."""
    for given in (pairs, profiles):
        if len({name for name, _ in given}) != len(given):
            raise InputError(f"the recipe's {what} name an expert twice", "name each expert once")
    for name, value in pairs:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(f"{what}: {name} has {value!r}", "give finite numbers")
    means = {name: profile.mean for name, profile in profiles}
    numbers = {**{name: rounded(value) for name, value in pairs}, **means}
    varying = [(name, profile) for name, profile in profiles if not profile.constant]
    return tuple(sorted(numbers.items())), tuple(sorted(varying, key=lambda pair: pair[0]))


def _epsilon(given: float | None, densities: Sequence[float]) -> float:
    """Check DELLA's window against the densities below 1, or choose it."""
    if not densities:
        return 0.0
    room = min(min(d, 1.0 - d) for d in densities)
    if given is None:
        return rounded(min(EPSILON, 0.9 * room))
    if given != 0.0 and not 0.0 < given < room:
        raise InputError(
            f"epsilon {given} takes the keep probabilities density - epsilon and density + epsilon "
            f"out of (0, 1)",
            f"with these densities epsilon must be below {room:g}",
        )
    return rounded(given)


def _gamma(given: float | None, densities: Sequence[float]) -> float:
    """Check breadcrumbs' share of removed outliers against the densities below 1, or choose it."""
    if not densities:
        return 0.0
    room = 1.0 - max(densities)
    if given is None:
        return rounded(min(GAMMA, room))
    if not 0.0 <= given <= room + 1e-9:
        raise InputError(
            f"gamma {given} is outside [0, {room:g}]",
            "the share removed at the top and the density may not exceed 1 together",
        )
    return rounded(given)

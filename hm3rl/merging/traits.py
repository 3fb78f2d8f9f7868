"""What each merge operator listens to; no torch, so that recipes are read without it.

An operator is declared once, here or by a plugin's `@register("operator", NAME, traits=...)`: which
entries of a recipe it reads, what is computed of the whole tensor for it and what a mergekit file
may say of it follow from its traits. Its function stands in `hm3rl.merging.operators` under the
same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hm3rl import registry
from hm3rl.errors import InputError


@dataclass(frozen=True)
class OperatorTraits:
    """Which settings an operator listens to, and what it gets (`operators.TensorMerge`).

    Attributes:
        density: Whether it drops or trims entries: it gets `densities`, and `smallest` unless it
            draws masks.
        scale: Whether the merged task vector is multiplied by `scale`.
        random: Whether it draws masks: it gets `survival`, and its recipes have a `seed`.
        normalise: Value of `normalise` where the recipe does not say; None: there is no choice.
        experts: Exact number of experts it takes, or None for any.
        fewest: Fewest experts it takes, where it takes any number.
        weighted: Whether weights matter; without, every expert with a weight counts alike.
        by_sum: Whether `normalise` divides by the sum of the weights (None: it always does, and
            no weight may be negative).
        epsilon: Whether it listens to `epsilon`.
        gamma: Whether it listens to `gamma`: it gets `largest`.
        gram: Whether it gets inner products over the whole tensor, `gram`.
    """

    density: bool = False
    scale: bool = True
    random: bool = False
    normalise: bool | None = None
    experts: int | None = None
    fewest: int = 0
    weighted: bool = True
    by_sum: bool | None = False
    epsilon: bool = False
    gamma: bool = False
    gram: bool = False

    @property
    def trims(self) -> bool:
        """Whether entries are kept by magnitude."""
        return self.density and not self.random


_SHIPPED: Mapping[str, OperatorTraits] = {
    "linear": OperatorTraits(scale=False, normalise=True, by_sum=True),
    "slerp": OperatorTraits(scale=False, experts=2, by_sum=None, gram=True),
    "multi_slerp": OperatorTraits(scale=False, by_sum=None, gram=True),
    "karcher": OperatorTraits(scale=False, by_sum=None, gram=True),
    "task_arithmetic": OperatorTraits(normalise=False, by_sum=True),
    "ties": OperatorTraits(density=True, normalise=True),
    "dare_linear": OperatorTraits(density=True, random=True, normalise=False, by_sum=True),
    "dare_ties": OperatorTraits(density=True, random=True, normalise=True),
    "della_linear": OperatorTraits(
        density=True, random=True, normalise=False, by_sum=True, epsilon=True
    ),
    "della": OperatorTraits(density=True, random=True, normalise=True, epsilon=True),
    "breadcrumbs": OperatorTraits(density=True, normalise=False, by_sum=True, gamma=True),
    "breadcrumbs_ties": OperatorTraits(density=True, normalise=False, gamma=True),
    "model_stock": OperatorTraits(scale=False, fewest=2, weighted=False, gram=True),
    "hm3_eq5": OperatorTraits(density=True, scale=False, random=True),
}

for _name, _traits in _SHIPPED.items():
    registry.add_part(
        registry.Part("operator", _name, f"hm3rl.merging.operators:{_name}", traits=_traits)
    )


def traits_of(operator: str) -> OperatorTraits:
    """The traits of an operator.

    Raises:
        InputError: There is none of that name, or it was registered without traits.
    """
    traits = registry.find("operator", operator).traits
    if not isinstance(traits, OperatorTraits):
        raise InputError(
            f"the operator {operator!r} was registered with traits={traits!r}",
            "give an OperatorTraits, which says what it listens to",
        )
    return traits


def operator_names() -> tuple[str, ...]:
    """Names of all operators."""
    return registry.names("operator")

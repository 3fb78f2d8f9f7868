"""Operators of a user's own."""

from __future__ import annotations

from hm3rl.errors import InputError
from hm3rl.merging.operators import OPERATORS, Operator
from hm3rl.merging.recipe import OPERATOR_TRAITS, OperatorTraits


def register_operator(name: str, operator: Operator, traits: OperatorTraits) -> None:
    """Add a merge operator; recipes and `search.parameter.operators` then know its name.

    It gets the base, the task vectors, the weights and, where its traits say so, scale and
    normalise. A large tensor comes in pieces, so each entry of the result may depend on the same
    entry of the input only. A recipe's key holds the operator's name: give another meaning
    another name.

    Args:
        name: Its name.
        operator: The function.
        traits: Which settings it listens to.

    Raises:
        InputError: The name is taken, or the traits ask for what only the operators of this
            package get: masks, thresholds.
    """
    if name in OPERATOR_TRAITS:
        raise InputError(f"there is an operator {name!r} already", "choose another name")
    if traits.density or traits.random or traits.epsilon or traits.gamma:
        raise InputError(
            f"the operator {name!r} asks for density, random, epsilon or gamma",
            "draw or trim inside of the operator, with constants of its own",
        )
    OPERATORS[name] = operator
    OPERATOR_TRAITS[name] = traits

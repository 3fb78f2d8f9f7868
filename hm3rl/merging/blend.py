"""Blends: what a layer, or the stem, of a merged model is made of.

A blend is a coefficient for each expert's task vector, theta_base + sum_k c_k delta_k, and its name
says so: `{code: 0.4, math: 0.7}`. A name is canonical: coefficients are rounded to four decimals,
those of 0 are dropped, experts are sorted; one expert with 1 is that expert, none at all the base.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hm3rl.errors import InputError
from hm3rl.models.names import BASE

DECIMALS = 4

PATTERN = r"\{[^{}|+\[\]]*\}"
"""What a blend looks like in the text of a path."""

_TERM = re.compile(r"\s*([A-Za-z0-9_][A-Za-z0-9_.\-@]*)\s*:\s*(\S+)\s*")


def blend_name(coefficients: Mapping[str, float]) -> str:
    """The canonical name of a blend.

    Args:
        coefficients: By expert.

    Returns:
        A name that `blend_of` reads, or that of the source that the blend is.
    """
    rounded = {name: round(float(value), DECIMALS) for name, value in coefficients.items()}
    used = {name: rounded[name] for name in sorted(rounded) if rounded[name]}
    if not used:
        return BASE
    if list(used.values()) == [1.0]:
        return next(iter(used))
    return "{" + ", ".join(f"{name}: {value:.10g}" for name, value in used.items()) + "}"


def is_blend(name: str) -> bool:
    """Whether a member's name is that of a blend."""
    return name.startswith("{")


def blend_of(name: str) -> dict[str, float]:
    """Coefficients by expert of a blend's name.

    Raises:
        InputError: It is no blend.
    """
    remedy = "write e.g. {code: 0.4, math: 0.7}"
    if not re.fullmatch(PATTERN, name):
        raise InputError(f"{name!r} is no blend", remedy)
    found: dict[str, float] = {}
    for term in filter(str.strip, name[1:-1].split(",")):
        match = _TERM.fullmatch(term)
        try:
            value = float(match[2]) if match else float("nan")
        except ValueError:
            value = float("nan")
        if match is None or not abs(value) < float("inf"):
            raise InputError(f"cannot read {term.strip()!r} in the blend {name}", remedy)
        if match[1] in found:
            raise InputError(f"the blend {name} names {match[1]} twice", remedy)
        found[match[1]] = value
    return found

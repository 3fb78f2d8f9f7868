"""What words the agent's options may be, and its ranges, checked before any work."""

from __future__ import annotations

from typing import Any

from hm3rl.config.schema import AgentSettings
from hm3rl.config.values import check_values
from hm3rl.errors import InputError

CHOICES: dict[str, tuple[str, ...]] = {
    "scalarisation": ("weighted_sum", "tchebycheff"),
    "reward": ("terminal", "spread"),
    "critic": ("vector", "scalar"),
    "conditioning": ("concat", "film"),
    "anchor": ("replay", "kl", "none"),
    "head": ("categorical", "wolpertinger"),
    "regression": ("advantage", "cloning", "iql"),
    "weighting": ("trajectory", "step"),
    "outcome.kind": ("gp", "linear"),
    "screening.acquisition": ("hypervolume", "utility"),
}
"""Allowed values by key of `AgentSettings`."""


def _value(settings: AgentSettings, key: str) -> Any:
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def check_options(settings: AgentSettings) -> None:
    """Refuse a word that names no option, and a number outside its range.

    Raises:
        InputError: Names the key, its value and what it may be.
    """
    for key, allowed in CHOICES.items():
        value = _value(settings, key)
        if value not in allowed:
            raise InputError(f"agent.{key}={value}", f"use one of {', '.join(allowed)}")
    check_values(settings, "agent.")
    if settings.per_preference and settings.init_from:
        raise InputError(
            "agent.init_from with agent.per_preference, which initialises networks anew",
            "drop one of them",
        )

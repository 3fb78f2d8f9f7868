"""The agent's options that are words, and the check that each is one that exists."""

from __future__ import annotations

from hm3rl.errors import InputError
from hm3rl.objectives.scalarisation import SCALARISATIONS
from hm3rl.settings import AgentSettings

CHOICES: dict[str, tuple[str, ...]] = {
    "scalarisation": SCALARISATIONS,
    "reward": ("terminal", "spread"),
    "critic": ("vector", "scalar"),
    "conditioning": ("concat", "film"),
    "anchor": ("replay", "kl", "none"),
    "regression": ("advantage", "cloning"),
    "weighting": ("trajectory", "step"),
    "outcome.kind": ("gp", "linear"),
    "screening.acquisition": ("hypervolume", "utility"),
}
"""Allowed values by key of `AgentSettings`."""


def check_options(settings: AgentSettings) -> None:
    """Refuse a word that names no option, which would otherwise act like another one.

    Raises:
        InputError: Names the key, its value and the values there are.
    """
    for key, allowed in CHOICES.items():
        value = settings
        for part in key.split("."):
            value = getattr(value, part)
        if value not in allowed:
            raise InputError(f"agent.{key}={value}", f"use one of {', '.join(allowed)}")

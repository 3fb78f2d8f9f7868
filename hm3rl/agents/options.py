"""What values the agent's options may have, checked before any work."""

from __future__ import annotations

from math import inf
from typing import Any

from hm3rl.errors import InputError
from hm3rl.objectives.scalarisation import SCALARISATIONS
from hm3rl.settings import AgentSettings

CHOICES: dict[str, tuple[str, ...]] = {
    "scalarisation": SCALARISATIONS,
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


LEAST: dict[str, float] = {
    "length_cost": 0,
    "utopia": 0,
    "neighbours": 1,
    "embedding": 1,
    "hidden": 1,
    "entropy": 0,
    "value_weight": 0,
    "likelihood_weight": 0,
    "epochs": 1,
    "rollouts": 1,
    "critic_warm_up": 0,
    "pretrain_steps": 0,
    "replay_steps": 0,
    "patience": 1,
    "imagined": 0,
    "distil_steps": 0,
    "preferences": 1,
    "batch": 1,
    "outcome.fit_steps": 1,
    "outcome.refit_steps": 0,
    "screening.proposals": 8,
    "screening.samples": 1,
}
"""Smallest values."""

POSITIVE = ("learning_rate", "clip_range", "target_kl", "pretrain_rate", "temperature")
"""Numbers above zero."""

SHARES = ("gamma", "gae_lambda", "epsilon", "screening.explore_share", "screening.offline_share")
"""Numbers from 0 to 1."""


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
    for key, bound in LEAST.items():
        value = _value(settings, key)
        # Written so that a value that is no number fails as well.
        if not bound <= value < inf:
            raise InputError(f"agent.{key}={value} is too small", f"give {bound:g} or more")
    for key in POSITIVE:
        if not 0 < _value(settings, key) < inf:
            raise InputError(f"agent.{key}={_value(settings, key)}", "give a number above 0")
    for key in SHARES:
        if not 0 <= _value(settings, key) <= 1:
            raise InputError(f"agent.{key}={_value(settings, key)}", "give a number from 0 to 1")
    if settings.per_preference and settings.init_from:
        raise InputError(
            "agent.init_from with agent.per_preference, which initialises networks anew",
            "drop one of them",
        )
    if not 0 < settings.expectile < 1:
        raise InputError(f"agent.expectile={settings.expectile}", "give a number between 0 and 1")

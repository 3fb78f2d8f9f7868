"""Whether wandb is asked for, and how; it is not imported unless that depends on its key."""

from __future__ import annotations

import os
from typing import Literal, cast

from hm3rl.errors import InputError

Mode = Literal["online", "offline", "disabled"]
MODES = ("auto", "online", "offline", "disabled")
"""Values of `logging.wandb`."""

VARIABLE = "WANDB_MODE"

SPOKEN = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""Values of `WANDB_MODE`, older ones included, as modes."""


def asked_mode(configured: str) -> str:
    """The mode that is asked for: the variable `WANDB_MODE` outranks the configuration.

    It decides how wandb runs, not whether it was asked for: with `logging.wandb=disabled` nothing
    is logged, whatever the variable says, so nobody uploads what he did not mean to.

    Args:
        configured: `logging.wandb`.

    Returns:
        One of `MODES`.

    Raises:
        InputError: An unknown mode, of either.
    """
    if configured not in MODES:
        raise InputError(f"unknown logging.wandb={configured!r}", f"one of {', '.join(MODES)}")
    said = os.environ.get(VARIABLE, "")
    if configured == "disabled" or not said:
        return configured
    if said not in SPOKEN:
        raise InputError(
            f"the variable {VARIABLE}={said} is no mode", f"one of {', '.join(SPOKEN)}, or unset it"
        )
    return SPOKEN[said]


def has_key() -> bool:
    """Whether wandb would find an API key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    # Imported here: a second and a half that a run without wandb need not pay.
    import wandb

    return bool(wandb.api.api_key)


def resolve_mode(configured: str) -> Mode:
    """Decide between online, offline and disabled.

    Args:
        configured: `logging.wandb`.

    Returns:
        `online`, `offline` or `disabled`.

    Raises:
        InputError: An unknown mode, or online without a key.
    """
    asked = asked_mode(configured)
    if asked == "online" and not has_key():
        where = "logging.wandb" if configured == "online" else VARIABLE
        raise InputError(
            f"{where}=online, but wandb has no API key",
            "run `wandb login`, set WANDB_API_KEY, or use logging.wandb=offline",
        )
    if asked == "auto":
        return "online" if has_key() else "offline"
    return cast(Mode, asked)

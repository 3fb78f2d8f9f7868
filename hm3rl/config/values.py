"""Which values the fields of the settings may have, declared beside each field, and one walk.

A number is declared with `number` and a word with `choice`, which keep the range or the words as
metadata of the dataclass field; `check_values` walks through settings and refuses the first value
that is none of its field's. What depends on several fields, or on names that plugins may add, is
checked where that is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

from hm3rl.errors import InputError

MOST = 10**9
"""Largest count, unless a field says otherwise: what is above is a slip of the keyboard."""

LONGEST_NAME = 200
"""Bytes of a name that becomes a file's or folder's: file systems take 255, endings included."""

LONGEST_PART = 255
LONGEST_PATH = 4095
"""Bytes that Linux takes for one part of a path, and for all of it."""

RANGE, CHOICES, FILE_NAME = "range", "choices", "file name"
"""Keys of a field's metadata."""


@dataclass(frozen=True)
class Range:
    """From where to where a number may be.

    Attributes:
        least: Smallest value, None for none.
        most: Largest value, None for any that is finite.
        above: Whether `least` itself is excluded.
        below: Whether `most` itself is excluded.
    """

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies within; one that is not finite lies nowhere."""
        if not math.isfinite(value):
            return False
        low = self.least is None or (value > self.least if self.above else value >= self.least)
        high = self.most is None or (value < self.most if self.below else value <= self.most)
        return low and high

    def __str__(self) -> str:
        """In words, after "give"."""
        low = "" if self.least is None else f"{_plain(self.least)}"
        high = "" if self.most is None else f"{_plain(self.most)}"
        if low and high and (self.above or self.below):
            edges = {(True, True): "both", (True, False): low, (False, True): high}
            return f"a number from {low} to {high}, without {edges[self.above, self.below]}"
        if low and high:
            return f"a number from {low} to {high}"
        if low:
            return f"a number above {low}" if self.above else f"{low} or more, and finite"
        return f"a number up to {high}" if high else "a finite number"


def _plain(bound: float) -> str:
    return f"{bound:d}" if isinstance(bound, int) else f"{bound:g}"


def number(
    default: Any,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of settings that is a number, with its range.

    Args:
        default: Its default; whole numbers without `most` end at `MOST`.
        least: Smallest value.
        most: Largest value.
        above: Instead of `least`, a value it must exceed.
        below: Instead of `most`, a value it must stay under.

    Returns:
        What `dataclasses.field` returns.
    """
    high = below if most is None else most
    if high is None and isinstance(default, int):
        high = MOST
    span = Range(above if least is None else least, high, above is not None, below is not None)
    return field(default=default, metadata={RANGE: span})


def choice(default: str, *others: str) -> Any:
    """A field of settings that is one of a few words.

    Args:
        default: The first of them.
        others: The rest.
    """
    return field(default=default, metadata={CHOICES: (default, *others)})


def choices(settings: type[Any], name: str) -> tuple[str, ...]:
    """The words that a field declared with `choice` may be, for whoever takes them elsewhere."""
    found: tuple[str, ...] = next(
        one.metadata[CHOICES] for one in fields(settings) if one.name == name
    )
    return found


def file_name(default: str) -> Any:
    """A field of settings whose text becomes part of a file's or folder's name."""
    return field(default=default, metadata={FILE_NAME: True})


def check_values(settings: Any, above: str = "") -> None:
    """Refuse a value that is none of its field's: null, out of range, no text for a file system.

    Args:
        settings: A dataclass of settings; parts and mappings of parts are walked through as well.
        above: Where it stands, such as `agent.`.

    Raises:
        InputError: Names the key, its value and its range.
    """
    for one in fields(settings):
        _check(f"{above}{one.name}", getattr(settings, one.name), one)


def _check(key: str, value: Any, declared: Field[Any]) -> None:
    if value is None:
        # Annotations are text here, as everywhere in the package.
        if "None" not in str(declared.type):
            raise InputError(f"{key} is null", f"leave {key} out to have its default")
    elif is_dataclass(value):
        check_values(value, f"{key}.")
    elif isinstance(value, Mapping):
        for name, part in value.items():
            _check_text(f"the name of {key}.{shown(name)}", str(name), LONGEST_NAME)
            _check(f"{key}.{name}", part, declared)
    elif isinstance(value, str):
        named = FILE_NAME in declared.metadata
        _check_text(key, value, LONGEST_NAME if named else LONGEST_PART)
        choices = declared.metadata.get(CHOICES, ())
        if choices and value not in choices:
            raise InputError(f"{key}={shown(value)}", f"use one of {', '.join(choices)}")
        if named and not value:
            raise InputError(f"{key} is empty", f"leave {key} out to have its default")
    elif isinstance(value, Sequence):
        for part in value:
            _check(key, part, declared)
    elif not isinstance(value, bool):
        span = declared.metadata.get(RANGE, Range())
        if not span.holds(value):
            raise InputError(f"{key}={value} is out of range", f"give {span}")


def _check_text(what: str, text: str, longest: int) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what}={text!r} is no Unicode text", "write it again") from None
    if "\0" in text:
        raise InputError(f"{what}={shown(text)} has a NUL character", "write it without")
    part = max(map(len, raw.split(b"/")))
    if part > longest or len(raw) > LONGEST_PATH:
        raise InputError(
            f"{what}={shown(text)} is too long", f"give {longest} bytes at most, no file has more"
        )


def shown(text: object, most: int = 60) -> str:
    """A value for a message: one of more than `most` characters ends in dots."""
    written = str(text)
    return written if len(written) <= most else f"{written[: most - 3]}..."

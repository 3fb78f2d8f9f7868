"""Signs beyond ASCII, for terminals and files that cannot take them."""

from __future__ import annotations

import codecs
from typing import TextIO

PLAIN_SIGNS = "hm3rl.plain_signs"
"""Name of the way in which `str.encode` replaces what an encoding does not have."""

SIGNS = {"±": "+-", "·": "*", "↓": "(min)", "×": "x", "…": "...", "–": "-", "—": "-", "→": "->"}
"""What stands for the signs that this package prints; other text becomes escapes."""


def replace_signs(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding does not have; an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    plain = "".join(
        SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii")
        for sign in unknown
    )
    return plain, error.end


codecs.register_error(PLAIN_SIGNS, replace_signs)


def never_fail(*streams: TextIO) -> None:
    """Let streams replace what their encoding does not have, instead of raising.

    Args:
        streams: Standard output and error; what is none (a test's buffer) stays as it is.
    """
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=PLAIN_SIGNS)

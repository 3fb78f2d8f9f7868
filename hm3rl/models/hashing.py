"""Hashes of plain data, the ground of every content key. Free of torch, so that keys are cheap."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, shortest exact floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def short_hash(value: Any, digits: int = 16) -> str:
    """Hash a JSON-serialisable value.

    Args:
        value: Anything `json` can write.
        digits: Number of hexadecimal digits to keep, 1 to 64.

    Returns:
        The first `digits` digits of the SHA-256 of the canonical JSON.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]

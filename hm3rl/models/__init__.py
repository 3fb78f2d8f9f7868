"""Sources: loading, hashing, compatibility, and the immutable `ModelPool`."""

from __future__ import annotations

from hm3rl.models.pool import BASE, ModelPool

__all__ = ["BASE", "ModelPool"]

"""The name that every pool has."""

from __future__ import annotations

BASE = "base"
"""Name of the base model, from which task vectors start."""

"""hm3rl: multi-objective model merging, parameters and architectures (HM3, arXiv 2409.18893)."""

from __future__ import annotations

__version__ = "0.1.0"

from hm3rl import envs as envs  # registers the environments with Gymnasium; imports no torch

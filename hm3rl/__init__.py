"""hm3rl: multi-objective model merging at the level of parameters and of architectures (HM3, arXiv 2409.18893)."""

from __future__ import annotations

__version__ = "0.1.0"

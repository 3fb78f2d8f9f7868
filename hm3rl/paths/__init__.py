"""Architecture level: layer paths, candidates, members, zero-copy assembly."""

from __future__ import annotations

from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath, LayerRef
from hm3rl.paths.limits import PathLimits

__all__ = ["Candidate", "LayerPath", "LayerRef", "PathLimits"]

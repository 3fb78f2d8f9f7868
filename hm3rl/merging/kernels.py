"""The fused kernels, where numba (extra `fast`) is installed and wanted; else None.

`HM3RL_KERNELS=torch` in the environment leaves all merging to torch, for instance to compare.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import ModuleType

fused: ModuleType | None = None
if find_spec("numba") is not None and os.environ.get("HM3RL_KERNELS") != "torch":
    from hm3rl.merging import fused as _fused

    fused = _fused

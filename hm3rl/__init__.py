"""hm3rl: multi-objective model merging, parameters and architectures (HM3, arXiv 2409.18893)."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.1.0"

GYMNASIUM = "gymnasium"


class _Registration:
    """Registers the environments when Gymnasium is imported after this package.

    Gymnasium knows no plugins any more. To import it here would do, but costs every command a
    quarter of a second, and `hm3rl front` the numpy that it does without.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find Gymnasium as others would, with the registration behind it."""
        if name != GYMNASIUM:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(GYMNASIUM)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module("hm3rl.envs")

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if GYMNASIUM in sys.modules:
    importlib.import_module("hm3rl.envs")
else:
    sys.meta_path.insert(0, _Registration())

"""Modules of the user's own that register parts when they are imported (`hm3rl.registry`).

Named in the configuration (`plugins=[mine.py]`), so that a run folder says which it needs and
every process that rebuilds the run (a sweep's job, a worker) loads the same ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from hm3rl import registry
from hm3rl.errors import InputError


def absolute(names: Iterable[str]) -> list[str]:
    """Spell file names absolutely, so that a run can be resumed from another folder."""
    return [str(Path(name).resolve()) if name.endswith(".py") else name for name in names]


def load_plugins(names: Iterable[str]) -> list[ModuleType]:
    """Import plugins; one that is loaded already stays as it is.

    Args:
        names: Module names (`mine.tasks`) or files (`mine.py`).

    Returns:
        The modules.

    Raises:
        InputError: A module cannot be found or fails while it is imported.
    """
    return [_load(name) for name in names]


def _load(name: str) -> ModuleType:
    before = registry.snapshot()
    try:
        return _loaded(name)
    except BaseException:
        registry.restore(before)  # a plugin that failed half-way has registered nothing
        raise


def _loaded(name: str) -> ModuleType:
    try:
        return _from_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except FileNotFoundError:
        raise InputError(f"there is no plugin file {name}", "check plugins=[...]") from None
    except ModuleNotFoundError as error:
        raise InputError(
            f"the plugin {name!r} cannot be imported: {error}",
            "install it, or give the path of its file, ending in .py",
        ) from error
    except Exception as error:
        raise InputError(
            f"the plugin {name!r} failed while it was imported: {type(error).__name__}: {error}",
            "import it in a Python session to see where",
        ) from error


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    known = f"hm3rl_plugin_{path.stem}"
    loaded = sys.modules.get(known)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None and spec.loader is not None  # a name that ends in .py has a loader
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses look their own module up.
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module

"""Sources by name: `zoo:NAME` is shipped inside the package; others are fetched or trained."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from hm3rl.errors import InputError
from hm3rl.models.pretrained import PREFIXES, pretrained_folder

ZOO_PREFIX = "zoo:"
NAMED = (ZOO_PREFIX, *PREFIXES)
"""How references begin that mean the same from any working directory."""


def zoo_folder(name: str) -> Path:
    """Find a packaged model.

    Args:
        name: Name of the model inside the zoo, e.g. "base" or "math".

    Returns:
        Its folder on disk.

    Raises:
        InputError: The zoo has no such model.
    """
    root = files("hm3rl.models") / "zoo_data"
    present = sorted(e.name for e in root.iterdir() if e.is_dir()) if root.is_dir() else []
    if name not in present:
        raise InputError(
            f"the zoo has no model {name!r}",
            f"models of the zoo: {', '.join(present) or 'none (the package data is incomplete)'}",
        )
    # Wheels are unpacked on installation, so the resource is a real folder that stays.
    with as_file(root / name) as folder:
        return Path(folder)


def resolve_source(name: str | Path, adapters: str | Path = "") -> Path:
    """Turn a source as the user names it into a folder.

    Args:
        name: A folder, "zoo:NAME", or "smollm2:NAME".
        adapters: Folder of the adapters that "smollm2:NAME" names.

    Returns:
        The folder, absolute; it is not checked here that a plain folder exists.

    Raises:
        InputError: The zoo has no such model, or it was not fetched or trained yet.
    """
    text = str(name)
    if text.startswith(ZOO_PREFIX):
        return zoo_folder(text.removeprefix(ZOO_PREFIX))
    if text.startswith(PREFIXES):
        return pretrained_folder(text, adapters)
    return Path(text).expanduser().resolve()

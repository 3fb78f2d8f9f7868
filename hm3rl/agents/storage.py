"""The part of a saved agent that every agent has: a path space and arrays, as JSON and NumPy."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.errors import InputError
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace

FORMAT = 2
"""Of what is written; 1, which kept the surrogate's options among the agent's, is read too."""

META, ARRAYS = "hm3rl/meta.json", "hm3rl/arrays.npz"


def write_space(
    path: Path,
    space: PathSpace | BlendSpace,
    objectives: Sequence[str],
    arrays: Mapping[str, np.ndarray],
    **meta: Any,
) -> None:
    """Add a space and arrays to a zip, or begin one.

    Args:
        path: The zip.
        space: The agent's paths.
        objectives: Names of its objectives.
        arrays: What else it has.
        **meta: What else it says of itself, as JSON takes it.
    """
    said: dict[str, Any] = {"format": FORMAT, **meta, "objectives": list(objectives)}
    own: dict[str, np.ndarray] = {}
    if isinstance(space, BlendSpace):
        said["blends"] = asdict(space)
    else:
        said["members"] = list(space.members)
        said["num_layers"] = list(space.num_layers)
        said["limits"] = asdict(space.limits)
        own = {name: getattr(space, name) for name in ("context", "descriptors", "can_follow")}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **own, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(META, json.dumps(said, indent=1))
        archive.writestr(ARRAYS, buffer.getvalue())


def read_parts(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write_space` wrote, unread.

    Raises:
        InputError: The file is no saved agent, or of a newer version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read(META))
            with np.load(io.BytesIO(archive.read(ARRAYS))) as stored:
                arrays = {name: stored[name] for name in stored.files}
        if not isinstance(meta, dict) or "format" not in meta:
            raise ValueError("no format is stated")
    # ValueError: no JSON, or arrays that would have to be unpickled.
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no saved agent ({error})", "give a run's agent.zip") from error
    if meta["format"] not in (1, FORMAT):
        raise InputError(
            f"{path} has agent format {meta['format']}, this version reads {FORMAT}",
            "repeat the search with this version",
        )
    return meta, arrays


def space_of(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PathSpace:
    """The path space of a saved agent over members."""
    return PathSpace(
        tuple(meta["members"]),
        tuple(meta["num_layers"]),
        PathLimits(**meta["limits"]),
        arrays["context"],
        arrays["descriptors"],
        arrays["can_follow"],
    )


def read_space(
    path: Path,
) -> tuple[PathSpace | BlendSpace, tuple[str, ...], dict[str, np.ndarray]]:
    """What `write_space` wrote: the space, the objectives, all arrays.

    Raises:
        InputError: The file is no saved agent.
    """
    meta, arrays = read_parts(path)
    space: PathSpace | BlendSpace
    if "blends" in meta:
        said = meta["blends"]
        space = BlendSpace(tuple(said["experts"]), said["depth"], said["largest"])
    else:
        space = space_of(meta, arrays)
    return space, tuple(meta["objectives"]), arrays

"""What was evaluated in one pool, so that other pools can learn from it.

Tables of many pools make a file, by themselves or with what was learned from them
(`hm3rl.agents.prior`): a zip of JSON and NumPy arrays that needs no unpickling.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.errors import InputError
from hm3rl.merging.blend import DECIMALS

FORMAT = 1
META, ARRAYS = "hm3rl/tables.json", "hm3rl/tables.npz"


@dataclass(frozen=True, eq=False)
class PoolTable:
    """Blends of a pool's experts and what they scored.

    Attributes:
        pool: Its name, or the folder of the run.
        base: Hash of the base's weights.
        experts: Hashes of the experts' weights, by name, in the order of the blends.
        tasks: Names of the K objectives.
        blends: Shape (n, 1 + L, N).
        vectors: f / z*, shape (n, K).
    """

    pool: str
    base: str
    experts: Mapping[str, str]
    tasks: tuple[str, ...]
    blends: np.ndarray
    vectors: np.ndarray

    def __post_init__(self) -> None:
        n, _, experts = self.blends.shape
        if experts != len(self.experts) or self.vectors.shape != (n, len(self.tasks)):
            raise InputError(
                f"{self.pool}: blends {self.blends.shape} and scores {self.vectors.shape} of "
                f"{len(self.experts)} experts and {len(self.tasks)} tasks",
                "give a row of each for each model",
            )

    @property
    def sources(self) -> np.ndarray:
        """What base and experts score (f / z*), shape (1 + N, K).

        Raises:
            InputError: One of them was not scored.
        """
        found = source_vectors(self.blends, self.vectors)
        if found is None:
            raise InputError(
                f"{self.pool}: the base and every expert must have scores", "score them, too"
            )
        return found

    def without(self, tasks: Collection[str]) -> PoolTable:
        """The same without the scores on some tasks."""
        kept = [k for k, task in enumerate(self.tasks) if task not in tasks]
        names = tuple(self.tasks[k] for k in kept)
        return replace(self, tasks=names, vectors=self.vectors[:, kept])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON takes it."""
        return {
            "pool": self.pool,
            "base": self.base,
            "experts": dict(self.experts),
            "tasks": list(self.tasks),
        }


def source_vectors(blends: np.ndarray, vectors: np.ndarray) -> np.ndarray | None:
    """What the base (a blend of nothing) and each expert (one-hot everywhere) score.

    Args:
        blends: Shape (n, 1 + L, N).
        vectors: Shape (n, K).

    Returns:
        f / z*, shape (1 + N, K); None if one of them is missing.
    """
    experts = blends.shape[2]
    found = []
    for one in (np.zeros(experts), *np.eye(experts)):
        rows = np.flatnonzero((blends == one).all(axis=(1, 2)))
        if not len(rows):
            return None
        found.append(vectors[rows[0]])
    return np.array(found)


def write_tables(
    path: Path, tables: Sequence[PoolTable], learned: Mapping[str, np.ndarray] | None = None
) -> None:
    """Write tables, and what was learned from them, to one file, in place of any that is there."""
    arrays = dict(learned or {})
    for i, table in enumerate(tables):
        arrays[f"blends/{i}"] = np.round(table.blends * 10**DECIMALS).astype(np.int32)
        arrays[f"vectors/{i}"] = table.vectors.astype(np.float32)
    buffer, temporary = io.BytesIO(), path.with_name(path.name + ".part")
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    said = {"format": FORMAT, "pools": [table.to_dict() for table in tables]}
    with zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(META, json.dumps(said, indent=1))
        archive.writestr(ARRAYS, buffer.getvalue())
    os.replace(temporary, path)


def read_tables(path: Path) -> tuple[tuple[PoolTable, ...], dict[str, np.ndarray]]:
    """Tables, and the arrays of what was learned from them, if anything.

    Raises:
        InputError: The file is not what `write_tables` writes, or of a newer version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read(META))
            with np.load(io.BytesIO(archive.read(ARRAYS))) as stored:
                arrays = {name: stored[name] for name in stored.files}
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
        tables = tuple(
            PoolTable(
                said["pool"],
                said["base"],
                said["experts"],
                tuple(said["tasks"]),
                np.round(arrays.pop(f"blends/{i}") / 10**DECIMALS, DECIMALS),
                arrays.pop(f"vectors/{i}").astype(np.float64),
            )
            for i, said in enumerate(meta["pools"])
        )
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} has no evaluations of other pools ({error})",
            "give what `hm3rl pretrain` wrote",
        ) from error
    return tables, arrays

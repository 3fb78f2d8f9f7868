"""What finished runs leave in the repository: a row for each, and its front item by item.

`results/methods.csv` has the hypervolumes (f / z*, z* = best expert on each task of the same split,
reference 0, the experts' own points included). `results/fronts/POOL.jsonl` has for each run which
items each model of its front solves, so that all statistics can be made without the models. Of rows
with the same key the last counts; earlier ones stay.
"""

from __future__ import annotations

import base64
import csv
import fcntl
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hm3rl.objectives.indicators import hypervolume

RESULTS = Path(__file__).parent / "results"
METHODS_FILE = "methods.csv"
FRONTS_FOLDER = "fronts"
COLUMNS = ("pool", "set", "method", "seed", "budget", "split", "hypervolume", "commit")
SEARCH, HELD_OUT = "search", "held_out"


class Key(NamedTuple):
    """Names a result.

    Attributes:
        pool: Name of the pool.
        method: Name of the method.
        seed: Seed of the search.
        budget: Evaluations.
    """

    pool: str
    method: str
    seed: int
    budget: int


@dataclass(frozen=True)
class Front:
    """The experts and the scored part of a run's front, on held-out items.

    Attributes:
        key: Whose.
        commit: Code that the run was made with.
        experts: Names of the N experts, whose rows come first.
        models: Keys of the M models chosen from the front.
        solved: By task, whether each model solves each held-out item, bool of shape (N + M, items).
        search: Raw scores on the search split, shape (N + M, K).
        volume: Hypervolume of the whole front on the search split.
        about: What else is worth knowing: evaluations by proposer, seconds, the search's curve.
    """

    key: Key
    commit: str
    experts: tuple[str, ...]
    models: tuple[str, ...]
    solved: Mapping[str, np.ndarray]
    search: np.ndarray
    volume: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its K tasks."""
        return tuple(self.solved)

    @cached_property
    def points(self) -> np.ndarray:
        """Held-out f / z*, experts first, shape (N + M, K)."""
        return self.normalised({})[:, :, 0]

    @cached_property
    def held_out(self) -> float:
        """Hypervolume on held-out items, the experts' own points included."""
        return hypervolume(self.points)

    def normalised(self, counts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Held-out f / z* when items count more than once, or not at all.

        Args:
            counts: By task how often each item counts, shape (items, R); tasks that are missing
                count each item once.

        Returns:
            Shape (N + M, K, R); z* is of the same items.
        """
        draws = max((found.shape[1] for found in counts.values()), default=1)
        columns = []
        for task, solved in self.solved.items():
            weights = counts.get(task, np.ones((solved.shape[1], draws)))
            scores = solved.astype(np.float64) @ weights / weights.sum(axis=0)
            columns.append(scores / scores[: len(self.experts)].max(axis=0))
        return np.stack(columns, axis=1)

    def to_line(self) -> str:
        """One line of JSON."""
        plain = {
            **self.key._asdict(),
            "commit": self.commit,
            "experts": list(self.experts),
            "models": list(self.models),
            "search": np.round(self.search, 6).tolist(),
            "volume": round(self.volume, 6),
            "items": {task: solved.shape[1] for task, solved in self.solved.items()},
            "solved": {task: _packed(solved) for task, solved in self.solved.items()},
            "about": dict(self.about),
        }
        return json.dumps(plain) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Front:
        """Read what `to_line` wrote."""
        plain = json.loads(line)
        rows = len(plain["experts"]) + len(plain["models"])
        return cls(
            key=Key(*(plain[name] for name in Key._fields)),
            commit=plain["commit"],
            experts=tuple(plain["experts"]),
            models=tuple(plain["models"]),
            solved={
                task: _unpacked(text, rows, plain["items"][task])
                for task, text in plain["solved"].items()
            },
            search=np.array(plain["search"]),
            volume=plain["volume"],
            about=plain["about"],
        )


def _packed(solved: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.packbits(solved).tobytes(), 9)).decode()


def _unpacked(text: str, rows: int, items: int) -> np.ndarray:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.unpackbits(bits, count=rows * items).reshape(rows, items).astype(bool)


def known(results: Path = RESULTS) -> dict[tuple[Key, str], tuple[float, str]]:
    """Hypervolume and commit by key and split, of methods.csv."""
    file = results / METHODS_FILE
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {
            (
                Key(row["pool"], row["method"], int(row["seed"]), int(row["budget"])),
                row["split"],
            ): (float(row["hypervolume"]), row["commit"])
            for row in csv.DictReader(stream)
        }


def fronts(pool: str, results: Path = RESULTS) -> dict[Key, Front]:
    """The fronts of a pool."""
    file = results / FRONTS_FOLDER / f"{pool}.jsonl"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8") as stream:
        found = [Front.from_line(line) for line in stream if line.endswith("\n")]
    return {front.key: front for front in found}


def add(found: Sequence[Front], kind: str, results: Path = RESULTS) -> None:
    """Append the results of a finished run; its rows come last, so they say that it is complete.

    Args:
        found: Its fronts at all budgets.
        kind: Set of the pool.
        results: Folder of the results.
    """
    (results / FRONTS_FOLDER).mkdir(parents=True, exist_ok=True)
    for front in found:
        append(results / FRONTS_FOLDER / f"{front.key.pool}.jsonl", [front.to_line()])
    rows = []
    for front in found:
        pool, *rest = front.key
        for split, value in ((SEARCH, front.volume), (HELD_OUT, front.held_out)):
            cells = [pool, kind, *rest, split, f"{value:.6f}", front.commit]
            rows.append(",".join(map(str, cells)) + "\n")
    append(results / METHODS_FILE, rows, ",".join(COLUMNS) + "\n")


def append(file: Path, lines: Iterable[str], header: str = "") -> None:
    """Append lines to a file that other processes append to, too.

    Args:
        file: The file.
        lines: With their ends.
        header: First line of a new file.
    """
    with file.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write((header if stream.tell() == 0 else "") + "".join(lines))

"""Held-out items and training text of the three tasks, from fixed seeds.

    python -m experiments.smollm2.data     # writes items:smollm2/{translation,math,code}.jsonl

An item belongs to train, search or test by the hash of its prompt, as everywhere in the package:
training text is drawn until its hash says train, so it cannot equal a held-out prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from experiments.smollm2 import functions, translation, word_problems
from experiments.smollm2.rows import Row
from hm3rl.tasks.base import Split, split_of

FOLDER = Path(__file__).with_name("tasks").resolve()
"""Where the package keeps them. The link to it is for configurations of earlier runs."""

COUNTS: dict[Split, int] = {"train": 64, "search": 100, "test": 200}
"""Lines of each file; those of the training split are for calibration only (alignment)."""

GENERATORS: dict[str, Callable[[random.Random], Row]] = {
    "translation": translation.draw,
    "math": word_problems.draw,
    "code": functions.draw,
}
"""What draws an item, by task; also the names of the experts."""


def held_out_rows(task: str, split: Split, count: int, seed: int = 0) -> list[Row]:
    """Draw rows of one split with distinct prompts.

    Args:
        task: Key of `GENERATORS`.
        split: Split that all of them belong to.
        count: Number of rows; fewer are the first ones of more.
        seed: Seed of the draw.
    """
    rng = random.Random(f"smollm2/{task}/{split}/{seed}")
    found: dict[str, Row] = {}
    while len(found) < count:
        row = GENERATORS[task](rng)
        if split_of(task, row.prompt) == split:
            found.setdefault(row.prompt, row)
    return list(found.values())


def committed_rows(task: str) -> list[Row]:
    """Draw the lines of a task's file, one split after the other."""
    return [row for split, count in COUNTS.items() for row in held_out_rows(task, split, count)]


def training_rows(task: str, count: int, seed: int) -> list[Row]:
    """Draw training text, repeats possible, none of it held out.

    Args:
        task: Key of `GENERATORS`.
        count: Number of rows.
        seed: Seed of the draw.
    """
    rng = random.Random(f"smollm2/{task}/training/{seed}")
    rows: list[Row] = []
    while len(rows) < count:
        row = GENERATORS[task](rng)
        if split_of(task, row.prompt) == "train":
            rows.append(row)
    return rows


def as_text(rows: list[Row]) -> str:
    """Write rows as JSONL."""
    return "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Write the three files."""
    FOLDER.mkdir(exist_ok=True)
    for task in GENERATORS:
        (FOLDER / f"{task}.jsonl").write_text(as_text(committed_rows(task)), encoding="utf-8")


if __name__ == "__main__":
    main()

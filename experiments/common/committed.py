"""Searches known by their committed results only, because their run folders are elsewhere.

A table of some hundred searches is made in several sittings, and by more than one machine. Every
run leaves its lines in hypervolume.csv, seconds.csv and curves.csv, and `--add` reads them back.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.common.plan import Context, Study
from experiments.common.records import Row, records

HYPERVOLUMES = "hypervolume.csv"
SECONDS = "seconds.csv"
CURVES = "curves.csv"

Key = tuple[str, int, int]
"""Variant, budget, seed."""


@dataclass(frozen=True)
class Committed:
    """A search at one budget as the committed files have it; the members are those of `Row`."""

    variant: str
    seed: int
    budget: int
    is_prefix: bool
    hypervolumes: dict[str, float]
    seconds: dict[str, str] = field(default_factory=dict)
    curves: np.ndarray | None = None

    def hypervolume(self, split: str) -> float:
        """Normalised hypervolume of split "search" or "test"."""
        return self.hypervolumes[split]


def _lines(folders: Iterable[Path], name: str) -> list[tuple[Key, dict[str, str]]]:
    """The lines of a file with their keys; of two folders with the same key, the first's."""
    found: dict[Key, list[dict[str, str]]] = {}
    for folder in folders:
        file = folder / name
        if not file.is_file():
            continue
        own: dict[Key, list[dict[str, str]]] = {}
        with file.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                key = (line.pop("method"), int(line.pop("budget")), int(line.pop("seed")))
                own.setdefault(key, []).append(line)
        found = {**own, **found}
    return [(key, line) for key, lines in found.items() for line in lines]


def committed(study: Study, folders: Sequence[Path]) -> list[Committed]:
    """The searches of a study in results folders.

    A study that owns its runs takes every budget and seed of its rows, others those they name.

    Args:
        study: The study.
        folders: Results folders; the first that has a search decides.
    """
    volumes: dict[Key, dict[str, float]] = {}
    for key, line in _lines(folders, HYPERVOLUMES):
        volumes.setdefault(key, {})[line["split"]] = float(line["hypervolume"])
    seconds = dict(_lines(folders, SECONDS))
    steps: dict[Key, list[tuple[int, float, float]]] = {}
    for key, line in _lines(folders, CURVES):
        step = (int(line["evaluations"]), float(line["hypervolume"]), float(line["utility"]))
        steps.setdefault(key, []).append(step)
    found = []
    for key, splits in volumes.items():
        name, budget, seed = key
        variant = study.variants.get(name)
        planned = variant and budget in {*variant.seeds, *variant.prefixes}
        if variant is None or (study.runs and not planned):
            continue
        curves = unfolded(steps[key], budget) if key in steps else None
        is_prefix = budget in variant.prefixes
        found.append(Committed(name, seed, budget, is_prefix, splits, seconds.get(key, {}), curves))
    return found


def known(study: Study, context: Context) -> list[Row]:
    """The finished searches of a study and, where the context says so, the committed ones.

    Where a search is both, the committed one stays: results do not change by being added to.

    Returns:
        By budget, then in the study's order, then by seed.
    """
    every: list[Row] = [*records(study, context.root), *committed(study, context.committed)]
    unique = {(row.variant, row.budget, row.seed): row for row in every}
    order = list(study.variants)
    return sorted(unique.values(), key=lambda row: (row.budget, order.index(row.variant), row.seed))


def folded(curves: np.ndarray) -> list[tuple[int, float, float]]:
    """The evaluations at which curves of shape (2, budget) change, with their values."""
    changes = (np.diff(curves, axis=1) != 0).any(axis=0)
    places = np.flatnonzero(np.concatenate([[True], changes]))
    return [(int(n) + 1, float(curves[0, n]), float(curves[1, n])) for n in places]


def unfolded(steps: Sequence[tuple[int, float, float]], budget: int) -> np.ndarray:
    """Curves of shape (2, budget) from their changes; the inverse of `folded`."""
    at, *values = np.array(steps).T
    place = np.searchsorted(at, np.arange(1, budget + 1), side="right") - 1
    return np.array(values)[:, place]

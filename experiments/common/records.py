"""Finished searches, read from their folders without loading a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from experiments.common.plan import Study
from experiments.common.prefix import hypervolume_on_test
from hm3rl.files import RunFolder
from hm3rl.objectives.preferences import simplex_lattice
from hm3rl.objectives.statistics import anytime_expected_utility

LATTICE = 10
"""Divisions of the simplex lattice over whose preferences the expected utility (EUM) is a mean."""


class Row(Protocol):
    """What tables and curves need of a search at one budget."""

    @property
    def variant(self) -> str:
        """Row of the study."""

    @property
    def seed(self) -> int:
        """Seed."""

    @property
    def budget(self) -> int:
        """Evaluations that count here."""

    @property
    def is_prefix(self) -> bool:
        """Whether the search went on after this budget."""

    @property
    def seconds(self) -> Mapping[str, str]:
        """Where its time went, as seconds.csv has it; empty for prefixes and resumed searches."""

    @property
    def curves(self) -> np.ndarray | None:
        """Hypervolume and expected utility, shape (2, budget); None where nobody kept them."""

    def hypervolume(self, split: str) -> float:
        """Normalised hypervolume of split "search" or "test"."""


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class Record:
    """A finished search at one budget, possibly smaller than the one it ran with.

    Attributes:
        variant: Row of the study.
        seed: Seed.
        budget: Evaluations that count here.
        folder: Run folder.
    """

    variant: str
    seed: int
    budget: int
    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Contents of summary.json, of the whole search."""
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    @property
    def is_prefix(self) -> bool:
        """Whether the search went on after this budget."""
        return bool(self.budget < self.summary["budget"])

    @cached_property
    def seconds(self) -> Mapping[str, str]:
        """Where the time went and the commit it ran at; a resumed search only knows a last life."""
        if self.is_prefix or self.summary.get("resumed"):
            return {}
        environment = json.loads((self.folder / "environment.json").read_text())
        spent = {name: str(value) for name, value in self.summary["seconds"].items()}
        return {**spent, "commit": (environment["commits"] or [""])[-1][:7]}

    @cached_property
    def curves(self) -> np.ndarray | None:
        """Hypervolume and expected utility after 1 ... budget evaluations, shape (2, budget)."""
        return np.array([self.hypervolume_curve, self.utility_curve])

    def hypervolume(self, split: str) -> float:
        """Normalised hypervolume after `budget` evaluations.

        Args:
            split: "search" or "test"; the front is chosen on the search split either way. At a
                prefix of a search, the front of that moment is scored on the test split once.
        """
        if not self.is_prefix:
            return float(self.summary["hypervolume"][split])
        if split == "search":
            return float(self.hypervolume_curve[-1])
        return hypervolume_on_test(self.folder, self.budget)

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return RunFolder(self.folder).read_evaluations()

    @cached_property
    def hypervolume_curve(self) -> np.ndarray:
        """Search hypervolume after 1 ... budget evaluations used, shape (budget,)."""
        start = float(self.summary["hypervolume"]["sources_search"])
        used = [float(row["evaluations"]) for row in self._rows]
        return _steps(used, [float(row["hypervolume"]) for row in self._rows], self.budget, start)

    @cached_property
    def utility_curve(self) -> np.ndarray:
        """Expected utility (weighted sum of f / z*, search split), shape (budget,)."""
        objectives = self.summary["objectives"]
        decisive = self._rows[0].get("fidelity")  # the sources', which come first
        full = [row for row in self._rows if row.get("fidelity") == decisive]
        points = np.array([[float(row[name]) for name in objectives] for row in full])
        points = points / np.array(self.summary["z_star"]["search"])
        sources = np.array([row["phase"] == "sources" for row in full])
        preferences = simplex_lattice(len(objectives), LATTICE)
        curve = anytime_expected_utility(points[~sources], preferences, points[sources])
        start = float((points[sources] @ preferences.T).max(axis=0).mean())
        used = [float(row["evaluations"]) for row in full if row["phase"] != "sources"]
        return _steps(used, curve, self.budget, start)


def _steps(
    used: Sequence[float], values: Sequence[float] | np.ndarray, budget: int, start: float
) -> np.ndarray:
    """The last value at or before each whole number of evaluations, shape (budget,)."""
    place = np.searchsorted(used, np.arange(1, budget + 1) + 1e-9, side="right")
    return np.array([start, *values])[place]


def records(study: Study, root: Path) -> list[Record]:
    """The finished searches of a study, prefixes included; by budget, then in the study's order.

    A study that owns its runs finds those at budgets and seeds beyond its plan, too.

    Args:
        study: The study.
        root: Folder of all runs.
    """
    found: dict[tuple[int, int, int], Record] = {}
    for place, (name, variant) in enumerate(study.variants.items()):
        for file in (root / study.owner / name).glob("budget*-seed*/summary.json"):
            numbers = re.fullmatch(r"budget(\d+)-seed(\d+)", file.parent.name)
            if numbers is None:
                continue
            budget, seed = int(numbers[1]), int(numbers[2])
            if not study.runs or budget in variant.seeds:
                found[budget, place, seed] = Record(name, seed, budget, file.parent)
        longest = max(variant.seeds)
        for budget in variant.prefixes:
            for seed in range(variant.seeds[longest]):
                record = found.get((longest, place, seed))
                if record is not None:
                    prefix = Record(name, seed, budget, record.folder)
                    found.setdefault((budget, place, seed), prefix)
    return [found[key] for key in sorted(found)]


def select(
    rows: Sequence[AnyRow], variant: str | None = None, budget: int | None = None
) -> list[AnyRow]:
    """Those of one variant, one budget, or both."""
    return [row for row in rows if variant in (None, row.variant) and budget in (None, row.budget)]

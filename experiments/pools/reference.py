"""What a pool's results are measured by: hypervolumes of its experts, and of all fronts at once.

    python -m experiments.pools.reference --set development

Writes `results/reference.json` for the pools it lacks. It is frozen: what is run later is measured
by the same numbers (and may have a share above 1).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.pools import judgements, results
from experiments.pools.pools import SETS, pools
from experiments.pools.results import Front
from hm3rl.files import write_text
from hm3rl.objectives.indicators import hypervolume, non_dominated

FILE = "reference.json"

LEAST = 0.05
"""Room between experts and reference below which a share says nothing; such pools stand apart."""


TRAINED = ("multitask",)
"""Methods that train on the tasks' data; they are held against merging, and no part of it."""


class Reference(NamedTuple):
    """Hypervolumes on held-out items.

    Attributes:
        experts: Of the experts' own points.
        best: Of the union of the fronts of all methods that merge, of all budgets and seeds.
        methods: The methods whose fronts these are.
    """

    experts: float
    best: float
    methods: tuple[str, ...]

    @property
    def room(self) -> float:
        """What there is to gain over the experts."""
        return self.best - self.experts

    def share(self, volume: float) -> float:
        """Share (hv - hv_experts) / (hv_ref - hv_experts) of a hypervolume."""
        return (volume - self.experts) / self.room


def measure(found: Iterable[Front]) -> Reference:
    """The reference of a pool.

    Args:
        found: All its fronts, at least one of a method that merges.
    """
    fronts = [front for front in found if front.key.method not in TRAINED]
    first = fronts[0]
    points = np.concatenate([front.points for front in fronts])
    best = hypervolume(points[non_dominated(points)])
    methods = tuple(dict.fromkeys(front.key.method for front in fronts))
    return Reference(hypervolume(first.points[: len(first.experts)]), best, methods)


def references(folder: Path = results.RESULTS) -> dict[str, Reference]:
    """The frozen references by pool."""
    file = folder / FILE
    if not file.is_file():
        return {}
    plain = json.loads(file.read_text(encoding="utf-8"))
    return {
        pool: Reference(one["experts"], one["best"], tuple(one["methods"]))
        for pool, one in plain.items()
    }


def freeze(names: Sequence[str], folder: Path = results.RESULTS) -> list[str]:
    """Write the references of pools that have none.

    Args:
        names: Pools.
        folder: Folder of the results.

    Returns:
        The pools that were added; those without any front are passed over.
    """
    file = folder / FILE
    plain: dict[str, Mapping[str, object]] = {}
    if file.is_file():
        plain = json.loads(file.read_text(encoding="utf-8"))
    added = []
    for name in names:
        found = results.fronts(name, folder).values()
        if name not in plain and any(front.key.method not in TRAINED for front in found):
            one = measure(found)
            commit = judgements.commit()
            plain[name] = {**one._asdict(), "methods": list(one.methods), "commit": commit}
            added.append(name)
    write_text(file, json.dumps(plain, indent=1) + "\n")
    return added


def main(words: Sequence[str] | None = None) -> None:
    """Freeze the references of a set."""
    parser = argparse.ArgumentParser(description="Freeze what results are measured by.")
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    args = parser.parse_args(words)
    print("added:", ", ".join(freeze(list(pools(args.set)), args.results)) or "none")


if __name__ == "__main__":
    main()

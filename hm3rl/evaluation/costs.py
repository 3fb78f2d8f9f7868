"""Objectives to be minimised that are known without running a model: the length of a path.

Every objective of this package is a utility to be maximised, divided by z*, the best expert's. An
objective to be minimised is turned round first, against a cost that is declared to be worthless:

    utility = max(0, 1 - cost / worst),   f / z* = (1 - cost / worst) / (1 - cost* / worst)

where cost* is the cheapest expert's. So experts that all cost the same have f / z* = 1, and the
reference 0 of the hypervolume is the worst cost, beyond which nothing counts. For a task whose
metric is to be minimised (an error rate) costs lie in [0, 1] and worst is 1; for path length it is
twice the sources' depth L unless set, and then f / z* is 2 - T / L: half the layers are worth 1.5,
twice as many nothing. The quotient cost* / cost would be the other choice; it has no worst cost,
and pays more for the last layer removed than for all before it.

A cost is added to what the store knows and never stored, so evaluations are shared with searches
that do not count it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hm3rl.config.tasks import PathLengthSettings, TaskSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.paths.candidate import Candidate
from hm3rl.tasks.base import Task


class Minimised(NamedTuple):
    """How a utility of an objective to be minimised reads as a cost.

    Attributes:
        worst: Cost of utility 0.
        unit: What is counted, for a reader; empty for an error rate.
    """

    worst: float
    unit: str

    def cost(self, utility: float) -> float:
        """The cost behind a utility (or, with the sign turned, behind a difference)."""
        return self.worst * (1.0 - utility)


@dataclass(frozen=True)
class PathLength:
    """The number of layers of a candidate's path.

    Attributes:
        name: Name of the objective.
        place: Its place among all objectives.
        worst: Number of layers of utility 0, above the sources' depth.
    """

    name: str
    place: int
    worst: float

    @property
    def minimised(self) -> Minimised:
        """How its utilities read as layers."""
        return Minimised(self.worst, "layers")

    def utility(self, candidate: Candidate) -> float:
        """Utility in [0, 1)."""
        return max(0.0, 1.0 - candidate.path.length / self.worst)


def build_costs(tasks: Mapping[str, TaskSettings], depth: int) -> tuple[PathLength, ...]:
    """The costs among the objectives of a run.

    Args:
        tasks: Settings by objective, in the order of the score vectors.
        depth: Layers of the sources.

    Returns:
        The costs, in that order.

    Raises:
        InputError: A worst length that no source is better than.
    """
    costs = []
    for place, (name, settings) in enumerate(tasks.items()):
        if not isinstance(settings, PathLengthSettings):
            continue
        worst = settings.worst or 2.0 * depth
        if not worst > depth:
            raise InputError(
                f"tasks.{name}.worst={settings.worst:g} layers, and the sources have {depth}",
                f"give more than {depth}, or 0 for twice as many",
            )
        costs.append(PathLength(name, place, worst))
    return tuple(costs)


def objectives(tasks: Sequence[Task], costs: Sequence[PathLength]) -> tuple[str, ...]:
    """Names of all objectives, tasks and costs, each cost at its place."""
    names = [task.name for task in tasks]
    for cost in costs:
        names.insert(cost.place, cost.name)
    return tuple(names)


def minimised(tasks: Sequence[Task], costs: Sequence[PathLength]) -> dict[str, Minimised]:
    """The objectives to be minimised, by name."""
    found = {
        task.name: Minimised(task.worst, task.unit)
        for task in tasks
        if task.direction == "minimise"
    }
    return found | {cost.name: cost.minimised for cost in costs}


def with_costs(
    evaluation: Evaluation, candidate: Candidate, costs: Sequence[PathLength]
) -> Evaluation:
    """Add the utilities of costs to an evaluation of the tasks.

    Args:
        evaluation: As the store has it.
        candidate: What was evaluated.
        costs: The costs, by ascending place.

    Returns:
        The evaluation over all objectives. A cost has no standard error, no likelihood (0 stands in
        its place), and two equal items, the fewest that a comparison by item takes.
    """
    if not costs:
        return evaluation
    tasks = list(evaluation.tasks)
    columns = {name: list(getattr(evaluation, name)) for name in ("scores", *_ZERO)}
    items, scores, nll = (
        dict(part) for part in (evaluation.items, evaluation.per_item, evaluation.per_item_nll)
    )
    for cost in costs:
        tasks.insert(cost.place, cost.name)
        if not evaluation.ok:
            continue
        value = cost.utility(candidate)
        columns["scores"].insert(cost.place, value)
        for name in _ZERO:
            columns[name].insert(cost.place, 0.0)
        items[cost.name] = np.arange(2)
        scores[cost.name], nll[cost.name] = np.full(2, value), np.zeros(2)
    return replace(
        evaluation,
        tasks=tuple(tasks),
        scores=tuple(columns["scores"]),
        standard_errors=tuple(columns["standard_errors"]),
        nll=tuple(columns["nll"]),
        items=items,
        per_item=scores,
        per_item_nll=nll,
    )


_ZERO = ("standard_errors", "nll")

"""What scoring one candidate yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hm3rl.tasks.base import Split

Status = Literal["ok", "failed"]
FULL = "full"
"""The fidelity at which every item of a split is scored."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one candidate on one split; immutable.

    Attributes:
        key: Content hash of the candidate.
        split: Split the items are of.
        tasks: Names of the tasks, in the order of all vectors here.
        scores: Mean score by task, shape (K,), in [0, 1], higher is better (a task to be minimised
            enters as 1 - score); empty if failed.
        standard_errors: Standard error of each mean, shape (K,), from the spread over items.
        nll: Mean over items of the reference's negative log-likelihood per token, its end token
            included, in nats, shape (K,).
        items: Numbers of the items scored by task, ascending, each of shape (items,).
        per_item: Scores by task, each of shape (items,), in the order of `items`.
        per_item_nll: The same for the negative log-likelihood.
        secondary: Mean of further metrics by task and name; None if they were not asked for.
        seconds: Seconds by part: "merging", "assembly", "model", "programs", "other".
        fidelity: "full", or which share of the items was scored and how (`Fidelity`).
        status: "ok", or "failed" when no score exists.
        error: Traceback of the failure, or None.
    """

    key: str
    split: Split
    tasks: tuple[str, ...]
    scores: tuple[float, ...]
    standard_errors: tuple[float, ...]
    nll: tuple[float, ...]
    items: Mapping[str, np.ndarray] = field(repr=False)
    per_item: Mapping[str, np.ndarray] = field(repr=False)
    per_item_nll: Mapping[str, np.ndarray] = field(repr=False)
    secondary: Mapping[str, Mapping[str, float]] | None
    seconds: Mapping[str, float]
    fidelity: str = FULL
    status: Status = "ok"
    error: str | None = field(default=None, repr=False)

    @classmethod
    def of_items(
        cls,
        key: str,
        split: Split,
        per_item: Mapping[str, Sequence[float] | np.ndarray],
        per_item_nll: Mapping[str, Sequence[float] | np.ndarray],
        secondary: Mapping[str, Mapping[str, float]] | None,
        seconds: Mapping[str, float],
        items: Mapping[str, Sequence[int] | np.ndarray] | None = None,
        fidelity: str = FULL,
    ) -> Evaluation:
        """Compute means and standard errors from scores per item.

        Args:
            key: Content hash of the candidate.
            split: Split the items are of.
            per_item: Scores by task, of two items at least.
            per_item_nll: The same for the negative log-likelihood.
            secondary: Means of further metrics.
            seconds: Seconds by part.
            items: Numbers of the items by task; None: all of the split.
            fidelity: At which they were scored.

        Returns:
            The evaluation.

        Raises:
            ValueError: Items and scores of a task differ in number.
        """
        scores = {task: np.asarray(values, np.float64) for task, values in per_item.items()}
        likelihood = {t: np.asarray(values, np.float64) for t, values in per_item_nll.items()}
        numbers = {
            task: np.arange(len(values)) if items is None else np.asarray(items[task], np.int64)
            for task, values in scores.items()
        }
        for task, values in scores.items():
            if len(numbers[task]) != len(values):
                raise ValueError(
                    f"{len(numbers[task])} items and {len(values)} scores of task {task!r}"
                )
        return cls(
            key=key,
            split=split,
            tasks=tuple(scores),
            scores=tuple(float(values.mean()) for values in scores.values()),
            standard_errors=tuple(
                float(values.std(ddof=1) / np.sqrt(len(values))) for values in scores.values()
            ),
            nll=tuple(float(likelihood[task].mean()) for task in scores),
            items=numbers,
            per_item=scores,
            per_item_nll=likelihood,
            secondary=secondary,
            seconds=dict(seconds),
            fidelity=fidelity,
        )

    @classmethod
    def failure(
        cls,
        key: str,
        split: Split,
        tasks: Sequence[str],
        error: str,
        seconds: Mapping[str, float],
        fidelity: str = FULL,
    ) -> Evaluation:
        """Record that scoring failed."""
        return cls(
            key=key,
            split=split,
            tasks=tuple(tasks),
            scores=(),
            standard_errors=(),
            nll=(),
            items={},
            per_item={},
            per_item_nll={},
            secondary=None,
            seconds=dict(seconds),
            fidelity=fidelity,
            status="failed",
            error=error,
        )

    @property
    def ok(self) -> bool:
        """Whether there are scores."""
        return self.status == "ok"

    @property
    def vector(self) -> np.ndarray:
        """Scores as an array, shape (K,).

        Raises:
            ValueError: The evaluation failed; a failure is never a score.
        """
        if not self.ok:
            raise ValueError(f"the evaluation of {self.key} failed and has no scores")
        return np.array(self.scores)

    @property
    def total_seconds(self) -> float:
        """Seconds of all parts together."""
        return float(sum(self.seconds.values()))

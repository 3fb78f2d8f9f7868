"""What algorithms tell the outside: the `RunLogger` protocol and the logger that hears nothing.

Algorithms call a logger and never know whether wandb, a CSV file, a progress bar or nobody listens.
The x-axis of every curve is `used`, the number of
evaluations that the run has used of its budget so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

EARLIER = "earlier"
"""Phase under which evaluations are logged that only an earlier life of a resumed run asked for."""


@dataclass(frozen=True)
class EvaluationEvent:
    """One candidate got its scores.

    Attributes:
        used: Evaluations used so far, this one included (sources are free and do not raise
            it).
        phase: Name of the phase that asked for it ("sources", "parameter", "offline", "online",
            "random paths", ...).
        key: Content hash of the candidate.
        text: The candidate's path in text form.
        candidate: The candidate as a JSON-ready mapping, enough to rebuild it.
        scores: Task scores in [0, 1], by objective.
        hypervolume: Normalised hypervolume of the archive after this evaluation.
        on_front: Whether the candidate was non-dominated when it arrived.
        seconds: Seconds spent on it, all parts together (0 for a hit in the store).
        cached: Whether the store already knew the answer.
        failed: Whether the evaluation failed.
        fidelity: "full", or on which share of the items it was scored and how.
        decides: Whether that is what the search decides by; only such evaluations enter the
            archive.
        chosen_by: What proposed it: the phase, or a part of an agent ("behaviour", "variation",
            "hill_climbing", "policy", "rollout").
    """

    used: float
    phase: str
    key: str
    text: str
    candidate: Mapping[str, Any]
    scores: Mapping[str, float]
    hypervolume: float
    on_front: bool
    seconds: float
    cached: bool
    failed: bool
    fidelity: str = "full"
    decides: bool = True
    chosen_by: str = ""


@runtime_checkable
class RunLogger(Protocol):
    """Receives the events of one run."""

    def start(self, config: Mapping[str, Any]) -> None:
        """The run begins; `config` is the resolved configuration."""

    def phase(self, name: str, budget: int) -> None:
        """A phase begins that may spend up to `budget` evaluations (0: it spends none)."""

    def evaluation(self, event: EvaluationEvent) -> None:
        """A candidate was scored."""

    def metrics(self, used: float, values: Mapping[str, float]) -> None:
        """Scalars of an algorithm (losses, entropies, correlations) at `charged` evaluations."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A finished table, such as the front."""

    def finish(self, status: str) -> None:
        """The run ended.

        Args:
            status: "finished"; "interrupted" or "failed", after which it can be resumed; "refused":
                something is wrong with the configuration or what it names.
        """


class NullLogger:
    """Hears everything, says nothing."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Ignore the configuration."""

    def phase(self, name: str, budget: int) -> None:
        """Ignore a phase."""

    def evaluation(self, event: EvaluationEvent) -> None:
        """Ignore an evaluation."""

    def metrics(self, used: float, values: Mapping[str, float]) -> None:
        """Ignore metrics."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Ignore a table."""

    def finish(self, status: str) -> None:
        """Ignore the end."""


class LoggerGroup:
    """Hands every event to several loggers, in order.

    Args:
        loggers: The listeners.
    """

    def __init__(self, loggers: Sequence[RunLogger]) -> None:
        self.loggers = tuple(loggers)

    def start(self, config: Mapping[str, Any]) -> None:
        """Pass the configuration on."""
        for logger in self.loggers:
            logger.start(config)

    def phase(self, name: str, budget: int) -> None:
        """Pass the phase on."""
        for logger in self.loggers:
            logger.phase(name, budget)

    def evaluation(self, event: EvaluationEvent) -> None:
        """Pass the evaluation on."""
        for logger in self.loggers:
            logger.evaluation(event)

    def metrics(self, used: float, values: Mapping[str, float]) -> None:
        """Pass the metrics on."""
        for logger in self.loggers:
            logger.metrics(used, values)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Pass the table on."""
        for logger in self.loggers:
            logger.table(name, columns, rows)

    def finish(self, status: str) -> None:
        """Pass the end on."""
        for logger in self.loggers:
            logger.finish(status)

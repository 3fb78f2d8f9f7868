"""Progress on the terminal: a bar where somebody looks, one line a phase where nobody does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hm3rl.events import EvaluationEvent


class ProgressLogger:
    """Shows the phase, evaluations done of the budget, the hypervolume so far and the time left.

    Args:
        budget: Evaluations of the whole run.
        console: Where to write; the bar is drawn only if it is a terminal.
        folder: Folder of the run, named at the start and to whoever has to go on with it.
    """

    def __init__(self, budget: int, console: Console, folder: Path) -> None:
        self._console = console
        self._folder = folder
        self._phase = "start"
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<18}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("hypervolume {task.fields[hypervolume]:.3f}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("start", total=budget, hypervolume=0.0)
            self._bar.start()

    def start(self, config: Mapping[str, Any]) -> None:
        """Say where everything is written."""
        self._console.print(f"run: {self._folder}", markup=False, soft_wrap=True)

    def phase(self, name: str, budget: int) -> None:
        """Show the phase's name."""
        self._phase = name
        if self._bar is not None:
            self._bar.update(self._task, description=name)
        elif budget:
            self._console.print(f"{name}: up to {budget} evaluations")

    def evaluation(self, event: EvaluationEvent) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=event.used, hypervolume=event.hypervolume)

    def metrics(self, used: float, values: Mapping[str, float]) -> None:
        """Not shown."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Not shown."""

    def finish(self, status: str) -> None:
        """Take the bar away; say how to go on with a run where going on helps."""
        if self._bar is not None:
            self._bar.stop()
        if status in ("interrupted", "failed"):
            resume = f"hm3rl search resume={self._folder}"
            self._console.print(f"{status}; go on with: {resume}", markup=False, soft_wrap=True)

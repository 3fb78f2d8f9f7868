"""Events of a run as files in its folder: CSV tables, the archive, a plain-text log."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from hm3rl.events import EvaluationEvent
from hm3rl.files import RunFolder


class CsvLogger:
    """Writes evaluations.csv, archive.jsonl, metrics.csv and run.log.

    A resumed run replays its decisions from the store, so the tables start anew each time and end
    the same; run.log is appended to.

    Args:
        folder: The run folder, which must exist.
        objectives: Names of the tasks, for the columns.
    """

    def __init__(self, folder: RunFolder, objectives: Sequence[str]) -> None:
        self._objectives = tuple(objectives)
        self._evaluations: IO[str] = folder.evaluations.open("w", newline="", encoding="utf-8")
        self._archive: IO[str] = folder.archive.open("w", encoding="utf-8")
        self._metrics: IO[str] = folder.metrics.open("w", newline="", encoding="utf-8")
        self._log: IO[str] = folder.log.open("a", encoding="utf-8")
        self._rows = csv.writer(self._evaluations, lineterminator="\n")
        self._values = csv.writer(self._metrics, lineterminator="\n")
        self._rows.writerow(
            [
                *("evaluations", "phase", "key", *self._objectives, "hypervolume"),
                *("on_front", "seconds", "cached", "failed", "path", "fidelity", "chosen_by"),
            ]
        )
        self._values.writerow(["evaluations", "name", "value"])

    def _say(self, text: str) -> None:
        self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._log.flush()

    def start(self, config: Mapping[str, Any]) -> None:
        """Note the start."""
        self._say(f"start name={config.get('name')} seed={config.get('seed')}")

    def phase(self, name: str, budget: int) -> None:
        """Note the phase."""
        self._say(f"phase {name}, up to {budget} evaluations")

    def evaluation(self, event: EvaluationEvent) -> None:
        """Write one row; it is on disk when this returns."""
        self._rows.writerow(
            [
                event.used,
                event.phase,
                event.key,
                *(f"{event.scores.get(name, math.nan):.6f}" for name in self._objectives),
                f"{event.hypervolume:.6f}",
                int(event.on_front),
                f"{event.seconds:.4f}",
                int(event.cached),
                int(event.failed),
                event.text,
                event.fidelity,
                event.chosen_by,
            ]
        )
        self._evaluations.flush()
        if event.failed:
            self._say(f"evaluation {event.key} failed: {event.text}")
        if not event.decides:
            return
        line = {
            "key": event.key,
            "phase": event.phase,
            "chosen_by": event.chosen_by,
            "evaluations": event.used,
            "failed": event.failed,
            "scores": dict(event.scores),
            "candidate": dict(event.candidate),
        }
        self._archive.write(json.dumps(line) + "\n")
        self._archive.flush()

    def metrics(self, used: float, values: Mapping[str, float]) -> None:
        """Write one row a value."""
        self._values.writerows([used, name, f"{value:.6g}"] for name, value in values.items())
        self._metrics.flush()

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Note that a table was made; its CSV file is written by whoever made it."""
        self._say(f"table {name}: {len(rows)} rows")

    def finish(self, status: str) -> None:
        """Close the files."""
        self._say(status)
        for stream in (self._evaluations, self._archive, self._metrics, self._log):
            stream.close()

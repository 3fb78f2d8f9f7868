"""Events of a run on wandb. Offline when there is no key; never a question at the prompt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import wandb

from hm3rl.errors import InputError
from hm3rl.events import EvaluationEvent
from hm3rl.objectives.archive import Archive
from hm3rl.runs import RunFolder
from hm3rl.settings import LoggingSettings

Mode = Literal["online", "offline", "disabled"]
MODES = ("auto", "online", "offline", "disabled")


def has_key() -> bool:
    """Whether wandb would find an API key without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    return bool(wandb.api.api_key)


def resolve_mode(asked: str) -> Mode:
    """Decide between online, offline and disabled.

    Args:
        asked: `auto`, `online`, `offline` or `disabled`.

    Returns:
        `online`, `offline` or `disabled`.

    Raises:
        InputError: An unknown mode, or online without a key.
    """
    if asked not in MODES:
        raise InputError(f"unknown logging.wandb={asked!r}", f"one of {', '.join(MODES)}")
    if asked == "online" and not has_key():
        raise InputError(
            "logging.wandb=online, but wandb has no API key",
            "run `wandb login`, set WANDB_API_KEY, or use logging.wandb=offline",
        )
    if asked == "auto":
        return "online" if has_key() else "offline"
    return cast(Mode, asked)


def run_id(folder: RunFolder) -> str:
    """A wandb id that is the same each time a run folder is resumed."""
    return hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:12]


FRONT_EVERY = 50
"""Evaluations between two snapshots of the front."""


class WandbLogger:
    """Logs to one wandb run; the x-axis is the number of evaluations charged.

    What a run leaves on wandb: the curves of scores, hypervolume and every metric of the
    algorithm; the tables `candidates` (all candidates with their paths), `fronts` (the front as it
    was every 50 evaluations and after each phase) and `front` (the last one, both splits); the
    artifact `recipes-ID` with all that is needed to rebuild each model but no weights. wandb adds
    its own figures of processor, memory and network.

    Args:
        folder: The run folder; offline files go to its `wandb/`.
        settings: Mode, project, group, tags.
        name: Name of the run.
        job_type: The searcher's name.
    """

    def __init__(
        self, folder: RunFolder, settings: LoggingSettings, name: str, job_type: str
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._name = name
        self._job_type = job_type
        self._mode = resolve_mode(settings.wandb)
        self._run: Any = None
        self._archive: Archive | None = None
        self._texts: dict[str, str] = {}
        self._phase = ""
        self._charged: float = 0
        self._evaluations: list[list[Any]] = []
        self._fronts: list[list[Any]] = []

    def start(self, config: Mapping[str, Any]) -> None:
        """Open the wandb run."""
        self._run = wandb.init(
            project=self._settings.project,
            entity=self._settings.entity or None,
            group=self._settings.group or self._name,
            job_type=self._job_type,
            name=f"{self._name}-{self._job_type}-seed{config.get('seed')}",
            tags=list(self._settings.tags),
            config=dict(config),
            dir=str(self._folder.path),
            id=run_id(self._folder),
            resume="allow" if self._mode == "online" else None,
            mode=self._mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("evaluations")
        self._run.define_metric("*", step_metric="evaluations")
        self._run.define_metric("hypervolume", step_metric="evaluations", summary="max")

    def phase(self, name: str, budget: int) -> None:
        """Note the phase in the summary; the front of the one before is kept."""
        self._snapshot()
        self._phase = name
        self._run.summary["phase"] = name

    def evaluation(self, event: EvaluationEvent) -> None:
        """Log scores and hypervolume."""
        group = "score" if event.decides else f"score at {event.fidelity}"
        values: dict[str, Any] = {f"{group}/{name}": value for name, value in event.scores.items()}
        values |= {
            "evaluations": event.charged,
            "hypervolume": event.hypervolume,
            "phase": event.phase,
            "evaluation/seconds": event.seconds,
            "evaluation/failed": int(event.failed),
        }
        self._run.log(values)
        if event.decides:
            self._remember(event)

    def _remember(self, event: EvaluationEvent) -> None:
        self._charged = event.charged
        self._evaluations.append(
            [event.charged, event.phase, event.key, *event.scores.values(), event.text]
            if not event.failed
            else [event.charged, event.phase, event.key, *[None] * self._width(), event.text]
        )
        if event.failed:
            return
        if self._archive is None:
            self._archive = Archive(tuple(event.scores), [1.0] * len(event.scores))
        self._archive.add(event.key, list(event.scores.values()))
        self._texts[event.key] = event.text
        if event.charged and event.charged % FRONT_EVERY == 0:
            self._snapshot()

    def _width(self) -> int:
        return len(self._archive.objectives) if self._archive else 0

    def _snapshot(self) -> None:
        """Keep the front as it is now."""
        if self._archive is None or any(row[0] == self._charged for row in self._fronts[-1:]):
            return
        self._fronts += [
            [self._charged, self._phase, *map(float, self._archive.vector(key)), self._texts[key]]
            for key in self._archive.front_keys()
        ]

    def metrics(self, charged: float, values: Mapping[str, float]) -> None:
        """Log scalars of an algorithm."""
        self._run.log({"evaluations": charged, **values})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self._run.log({name: wandb.Table(columns=list(columns), data=[list(r) for r in rows])})

    def finish(self, status: str) -> None:
        """Log the tables and the recipes and close the wandb run, whatever happened."""
        if self._run is None:
            return
        try:
            self._log_tables()
            self._log_recipes(status)
            self._run.summary["status"] = status
        finally:
            self._run.finish(exit_code=0 if status == "finished" else 1)

    def _log_tables(self) -> None:
        if self._archive is None:
            return
        self._snapshot()
        tasks = self._archive.objectives
        columns = ["evaluations", "phase", "key", *tasks, "path"]
        self.table("candidates", columns, self._evaluations)
        self.table("fronts", ["evaluations", "phase", *tasks, "path"], self._fronts)

    def _log_recipes(self, status: str) -> None:
        folder = self._folder
        files = [folder.config, folder.environment, folder.archive, folder.front, folder.summary]
        artifact = wandb.Artifact(f"recipes-{run_id(folder)}", "recipes", metadata={"run": status})
        for file in files:
            if file.is_file():
                artifact.add_file(str(file), policy="mutable")
        self._run.log_artifact(artifact)


def log_weights(folder: RunFolder, settings: LoggingSettings, model: Path) -> None:
    """Log an exported model as an artifact of the run, which is opened once more for it.

    Args:
        folder: The run folder.
        settings: Mode and project, as in the run.
        model: Folder of the checkpoint.
    """
    mode = resolve_mode(settings.wandb)
    run = wandb.init(
        project=settings.project,
        entity=settings.entity or None,
        dir=str(folder.path),
        id=run_id(folder),
        resume="allow" if mode == "online" else None,
        mode=mode,
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        artifact = wandb.Artifact(f"model-{run_id(folder)}", "model")
        artifact.add_dir(str(model))
        run.log_artifact(artifact)
    finally:
        run.finish()

"""Events of a run on wandb. Offline when there is no key; never a question at the prompt.

Logging never ends a search and hardly delays one: what cannot be sent is said and kept on disk.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import wandb

from hm3rl.config.schema import LoggingSettings
from hm3rl.events import EvaluationEvent
from hm3rl.files import RunFolder
from hm3rl.objectives.archive import Archive
from hm3rl.reporting.wandb_mode import Mode, resolve_mode

ANSWER_SECONDS = 15.0
"""How long a search waits for wandb to answer at the start."""
UPLOAD_SECONDS = 60.0
"""How long a search waits at the end for what wandb has not sent yet."""
WEIGHTS_SECONDS = 3600.0
"""The same for a model's weights, which were asked for and come after the search."""

_say = logging.getLogger(__name__).warning


def run_id(folder: RunFolder) -> str:
    """A wandb id, the same each time a run folder is resumed; in a sweep, what its agent gave."""
    given = os.environ.get("WANDB_RUN_ID", "") if os.environ.get("WANDB_SWEEP_ID") else ""
    return given or hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:12]


def open_wandb(
    folder: RunFolder, settings: LoggingSettings, mode: Mode, patience: float, **more: Any
) -> Any:
    """Open the wandb run of a run folder; offline, and said, where wandb does not answer.

    Args:
        folder: The run folder; offline files go to its `wandb/`.
        settings: Project and entity.
        mode: How.
        patience: Seconds that closing it may take.
        **more: Further arguments of `wandb.init`.

    Returns:
        The wandb run.
    """
    arguments = {
        "project": settings.project,
        "entity": settings.entity or None,
        "dir": str(folder.path),
        "id": run_id(folder),
        "settings": wandb.Settings(
            silent=True,
            console="off",
            init_timeout=ANSWER_SECONDS,
            login_timeout=ANSWER_SECONDS,
            finish_timeout=patience,
            finish_timeout_raises=True,
        ),
        **more,
    }
    if mode == "online":
        try:
            return wandb.init(mode="online", resume="allow", **arguments)
        except Exception as error:  # no network, a key that is refused, an unknown project
            _say(
                f"wandb does not take the run ({_first_line(error)}); logged offline instead. "
                f"Later: wandb sync {folder.path}/wandb/offline-run-*"
            )
            wandb.teardown()  # its service holds the id of the run that did not begin
            mode = "offline"
    return wandb.init(mode=mode, **arguments)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """Let a search go on without wandb, and say so, if logging fails."""

    @wraps(method)
    def guarded(self: WandbLogger, *arguments: Any, **named: Any) -> None:
        if self.lost:
            return
        try:
            method(self, *arguments, **named)
        except Exception as error:  # a full disk, a killed service: whatever wandb dies of
            self.give_up(error)

    return guarded


def figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """A finished run in plain numbers, by which runs are sorted and sweeps optimise.

    Args:
        summary: Contents of summary.json.
    """
    volumes, front = summary["hypervolume"], summary["front"]
    return {
        "hypervolume": float(volumes["search"]),
        "test_hypervolume": float(volumes["test"]),
        "front_size": int(front["search"]),
        "failed": int(summary["failed"]),
    }


FRONT_EVERY = 50
"""Evaluations between two snapshots of the front."""


class WandbLogger:
    """Logs to one wandb run; the x-axis is the number of evaluations charged.

    What a run leaves on wandb: the curves of scores, hypervolume and every metric of the
    algorithm; in the summary the plain numbers of `figures`; the tables `candidates` (all
    candidates with their paths), `fronts` (the front as it was every 50 evaluations and after each
    phase) and `front` (the last one, both splits); the artifact `recipes-ID` with all that is
    needed to rebuild each model but no weights. wandb adds its own figures of processor, memory
    and network.

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
        self.lost = False
        self._archive: Archive | None = None
        self._texts: dict[str, str] = {}
        self._phase = ""
        self._used: float = 0
        self._evaluations: list[list[Any]] = []
        self._fronts: list[list[Any]] = []

    @_harmless
    def start(self, config: Mapping[str, Any]) -> None:
        """Open the wandb run."""
        self._run = open_wandb(
            self._folder,
            self._settings,
            self._mode,
            UPLOAD_SECONDS,
            group=self._settings.group or self._name,
            job_type=self._job_type,
            name=f"{self._name}-{self._job_type}-seed{config.get('seed')}",
            tags=list(self._settings.tags),
            config=dict(config),
        )
        self._run.define_metric("evaluations")
        # A summary would hold the last candidate's scores, which say nothing about the run.
        self._run.define_metric("*", step_metric="evaluations", summary="none")
        self._run.define_metric("hypervolume", step_metric="evaluations")

    @_harmless
    def phase(self, name: str, budget: int) -> None:
        """Note the phase in the summary; the front of the one before is kept."""
        self._snapshot()
        self._phase = name
        self._run.summary["phase"] = name

    @_harmless
    def evaluation(self, event: EvaluationEvent) -> None:
        """Log scores and hypervolume."""
        group = "score" if event.decides else f"score at {event.fidelity}"
        values: dict[str, Any] = {f"{group}/{name}": value for name, value in event.scores.items()}
        values |= {
            "evaluations": event.used,
            "hypervolume": event.hypervolume,
            "phase": event.phase,
            "evaluation/seconds": event.seconds,
            "evaluation/failed": int(event.failed),
        }
        self._run.log(values)
        if event.decides:
            self._remember(event)

    def _remember(self, event: EvaluationEvent) -> None:
        self._used = event.used
        self._evaluations.append(
            [event.used, event.phase, event.key, *event.scores.values(), event.text]
            if not event.failed
            else [event.used, event.phase, event.key, *[None] * self._width(), event.text]
        )
        if event.failed:
            return
        if self._archive is None:
            self._archive = Archive(tuple(event.scores), [1.0] * len(event.scores))
        self._archive.add(event.key, list(event.scores.values()))
        self._texts[event.key] = event.text
        if event.used and event.used % FRONT_EVERY == 0:
            self._snapshot()

    def _width(self) -> int:
        return len(self._archive.objectives) if self._archive else 0

    def _snapshot(self) -> None:
        """Keep the front as it is now."""
        if self._archive is None or any(row[0] == self._used for row in self._fronts[-1:]):
            return
        self._fronts += [
            [self._used, self._phase, *map(float, self._archive.vector(key)), self._texts[key]]
            for key in self._archive.front_keys()
        ]

    @_harmless
    def metrics(self, used: float, values: Mapping[str, float]) -> None:
        """Log scalars of an algorithm."""
        self._run.log({"evaluations": used, **values})

    @_harmless
    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self._table(name, columns, rows)

    def _table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._run.log({name: wandb.Table(columns=list(columns), data=[list(r) for r in rows])})

    @_harmless
    def finish(self, status: str) -> None:
        """Log the tables and the recipes and close the wandb run."""
        if self._run is None:
            return
        self._log_tables()
        self._log_recipes(status)
        self._run.summary["status"] = status
        self._run.summary["evaluations"] = self._used
        if status == "finished":
            self._run.summary.update(figures(self._folder.read_summary()))
        self._run.finish(exit_code=0 if status == "finished" else 1)

    def give_up(self, error: Exception) -> None:
        """Say that logging failed, close the wandb run and listen no more."""
        self.lost = True
        _say(
            f"wandb: {_first_line(error)}. The search goes on without it; its folder has "
            f"everything. Later: wandb sync {self._folder.path}/wandb/*run-*"
        )
        if self._run is not None:
            try:
                self._run.finish(exit_code=1)
            except Exception as again:  # as above; it was said already that logging failed
                _say(f"wandb: {_first_line(again)}")

    def _log_tables(self) -> None:
        if self._archive is None:
            return
        self._snapshot()
        tasks = self._archive.objectives
        columns = ["evaluations", "phase", "key", *tasks, "path"]
        self._table("candidates", columns, self._evaluations)
        self._table("fronts", ["evaluations", "phase", *tasks, "path"], self._fronts)

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

    If that fails it is said, no more.

    Args:
        folder: The run folder.
        settings: Mode and project, as in the run.
        model: Folder of the checkpoint.
    """
    try:
        mode = resolve_mode(settings.wandb)
        run = open_wandb(folder, settings, mode, WEIGHTS_SECONDS)
        artifact = wandb.Artifact(f"model-{run_id(folder)}", "model")
        artifact.add_dir(str(model))
        run.log_artifact(artifact)
        run.finish()
    except Exception as error:  # the search is over and the model is in its folder
        _say(f"wandb did not take the weights of {model}: {_first_line(error)}")

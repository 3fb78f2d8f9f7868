"""Events of a run on wandb. Offline when there is no key; never a question at the prompt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import wandb

from hm3rl.errors import InputError
from hm3rl.events import EvaluationEvent
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


class WandbLogger:
    """Logs to one wandb run; the x-axis is the number of evaluations charged.

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

    def phase(self, name: str, budget: int) -> None:
        """Note the phase in the summary."""
        self._run.summary["phase"] = name

    def evaluation(self, event: EvaluationEvent) -> None:
        """Log scores and hypervolume."""
        values: dict[str, Any] = {f"score/{name}": value for name, value in event.scores.items()}
        values |= {
            "evaluations": event.charged,
            "hypervolume": event.hypervolume,
            "phase": event.phase,
            "evaluation/seconds": event.seconds,
            "evaluation/failed": int(event.failed),
        }
        self._run.log(values)

    def metrics(self, charged: int, values: Mapping[str, float]) -> None:
        """Log scalars of an algorithm."""
        self._run.log({"evaluations": charged, **values})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self._run.log({name: wandb.Table(columns=list(columns), data=[list(r) for r in rows])})

    def finish(self, status: str) -> None:
        """Close the wandb run, whatever happened."""
        if self._run is not None:
            self._run.summary["status"] = status
            self._run.finish(exit_code=0 if status == "finished" else 1)

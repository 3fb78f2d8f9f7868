"""Run folders: what lies where, who may write, and what is noted about the machine."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from hm3rl.errors import InputError
from hm3rl.events import EARLIER

PACKAGES = (
    "hm3rl",
    "torch",
    "numpy",
    "transformers",
    "safetensors",
    "gymnasium",
    "stable-baselines3",
    "sb3-contrib",
    "moocore",
    "hydra-core",
)

PACKAGE = Path(__file__).parent

POSTERIOR, SCORES = "posterior", "scores"
"""What models are compared by, as summary.json says of the front: posterior means, or scores."""

_NUMBER = re.compile(r"\d+(\.\d+)?")


def check_name(what: str, name: str) -> None:
    """Require a name that can be one folder or file, and so cannot lead elsewhere.

    Args:
        what: What is named, for the message: `name` or `--name`.
        name: The name.

    Raises:
        InputError: It is empty, or holds a separator or `..`.
    """
    if not name or ".." in name or any(sign in name for sign in "/\\\0"):
        raise InputError(
            f"{what}={name!r} cannot name a folder",
            "give a name without '/', '\\' and '..'; another place: output=FOLDER or root=FOLDER",
        )


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine, source hashes, command."""
        return self.path / "environment.json"

    @property
    def store(self) -> Path:
        """Stored evaluations."""
        return self.path / "evaluations.sqlite"

    @property
    def archive(self) -> Path:
        """Every candidate of the run, one JSON object a line, in the order charged."""
        return self.path / "archive.jsonl"

    @property
    def earlier(self) -> Path:
        """What archive.jsonl held before a resumed run, still unfinished, began it anew."""
        return self.path / "archive.earlier.jsonl"

    @property
    def evaluations(self) -> Path:
        """One row for each: evaluations used so far, phase, scores, hypervolume."""
        return self.path / "evaluations.csv"

    @property
    def metrics(self) -> Path:
        """Scalars of the algorithms, long form: evaluations, name, value."""
        return self.path / "metrics.csv"

    @property
    def posterior(self) -> Path:
        """Posterior means and errors of all scores, if the run's agent can say."""
        return self.path / "posterior.csv"

    @property
    def mergeability(self) -> Path:
        """Facts about the experts' task vectors, if two or more of them can be merged."""
        return self.path / "mergeability.json"

    @property
    def answers(self) -> Path:
        """What sources and front answered to a few items."""
        return self.path / "answers.json"

    @property
    def front(self) -> Path:
        """The front, search and test scores."""
        return self.path / "front.csv"

    @property
    def leaderboard(self) -> Path:
        """The front and the sources as a readable table."""
        return self.path / "leaderboard.md"

    @property
    def summary(self) -> Path:
        """Figures of a finished run: hypervolumes, seconds, counts."""
        return self.path / "summary.json"

    @property
    def agent(self) -> Path:
        """Trained networks."""
        return self.path / "agent.zip"

    @property
    def models(self) -> Path:
        """Exported checkpoints."""
        return self.path / "models"

    @property
    def log(self) -> Path:
        """Log in plain text."""
        return self.path / "run.log"

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Open a run that was started before.

        Raises:
            InputError: The folder is not a run folder.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise InputError(f"no such run folder: {path}", "give the folder a search printed")
        if not folder.config.is_file():
            raise InputError(
                f"{path} is not a run folder: it has no config.yaml",
                "give the folder a search printed; it holds config.yaml and evaluations.sqlite",
            )
        return folder

    @classmethod
    def finished(cls, path: str | Path) -> RunFolder:
        """Open a run whose search has ended.

        Raises:
            InputError: The folder is not a run folder, or its search has not finished.
        """
        folder = cls.existing(path)
        if not folder.summary.is_file():
            raise InputError(
                f"the search in {path} has not finished",
                f"continue it: hm3rl search resume={path}",
            )
        return folder

    def read_summary(self) -> dict[str, Any]:
        """Contents of summary.json.

        Raises:
            InputError: It is missing or damaged; so for the readers below.
        """
        with self._reading(self.summary):
            found = _renamed(json.loads(self.summary.read_text(encoding="utf-8")))
            needed = ("objectives", "z_star", "sources", "hypervolume", "evaluations")
            return {**found, **{name: found[name] for name in needed}}

    def read_environment(self) -> dict[str, Any]:
        """Contents of environment.json."""
        with self._reading(self.environment):
            found = json.loads(self.environment.read_text(encoding="utf-8"))
            return {**found, "sources": dict(found["sources"])}

    def read_front(self) -> list[dict[str, str]]:
        """Rows of front.csv."""
        with self._reading(self.front):
            return _csv_rows(self.front, ("name", "key", "on_test_front", "path"))

    def read_answers(self) -> dict[str, Any]:
        """Contents of answers.json."""
        with self._reading(self.answers):
            found = json.loads(self.answers.read_text(encoding="utf-8"))
            return {name: found[name] for name in ("split", "metrics", "items", "answers")}

    def read_posterior(self) -> list[dict[str, str]]:
        """Rows of posterior.csv."""
        with self._reading(self.posterior):
            return _csv_rows(self.posterior, ("key",))

    def read_evaluations(self) -> list[dict[str, str]]:
        """Rows of evaluations.csv."""
        with self._reading(self.evaluations):
            return _csv_rows(self.evaluations, ("evaluations", "phase", "key", "hypervolume"))

    def read_archive(self) -> list[dict[str, Any]]:
        """Lines of archive.jsonl."""
        with self._reading(self.archive):
            text = self.archive.read_text(encoding="utf-8")
            lines = [_archive_line(line) for line in text.splitlines()]
            if not lines:
                raise ValueError("it is empty")
            return lines

    def begin_anew(self) -> list[dict[str, Any]]:
        """Keep what the run asked so far, before its tables are written anew by a resumed search.

        A store may be shared, and holds what `hm3rl pick` scored, too: which evaluations are the
        run's own stands in archive.jsonl alone. Its lines go to `earlier` first, which `settle`
        removes, so a search killed at any moment leaves them in one of the two.

        Returns:
            The lines, the latest of each candidate. What a crash left of a line is passed over: the
            store has that evaluation, and the search asks for it again.
        """
        lines: dict[str, dict[str, Any]] = {}
        for file in (self.earlier, self.archive):
            lines.update((line["key"], line) for line in _whole_lines(file))
        if lines:
            write_text(self.earlier, "".join(json.dumps(line) + "\n" for line in lines.values()))
        return list(lines.values())

    def settle(self) -> None:
        """The search has ended and archive.jsonl holds all that the run asked."""
        self.earlier.unlink(missing_ok=True)

    def used(self) -> float:
        """Evaluations that the run has used: those of its last life, and what only others asked."""
        lines = [*_whole_lines(self.earlier), *_whole_lines(self.archive)]
        found = [float(line.get("evaluations", 0)) for line in lines]
        if self.evaluations.is_file():  # which alone has the rows of lower fidelities
            with self.evaluations.open(encoding="utf-8", newline="") as stream:
                cells = [_renamed(row).get("evaluations") for row in csv.DictReader(stream)]
            found += [float(cell) for cell in cells if cell and _NUMBER.fullmatch(cell)]
        others = {line["key"] for line in lines if line.get("phase") == EARLIER}
        return max(found, default=0.0) + len(others)

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        """Turn what is wrong with a file into advice: a resumed run writes all of them again."""
        try:
            yield
        except FileNotFoundError:
            what = f"{file} is missing"
        except PermissionError:
            raise InputError(f"{file} may not be read", "ask its owner for permission") from None
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            what = f"{file} is damaged ({type(error).__name__}: {error})"
        else:
            return
        raise InputError(what, self.again(file))

    def again(self, file: Path) -> str:
        """How to get a file of this run back, for messages."""
        first = "delete it and " if file == self.environment and file.exists() else ""
        return (
            f"restore it, or {first}let the run write its files again (stored scores are not "
            f"computed again): hm3rl search resume={self.path}"
        )

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write JSON so that a reader never sees half a file."""
        write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row or object of a run, whose evaluations used were called `charged` in version 0.1."""
    return {"evaluations" if key == "charged" else key: value for key, value in row.items()}


def _csv_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that has some columns.

    Raises:
        ValueError: It has not, or its last row is not whole.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = [_renamed(row) for row in reader]
    there = _renamed(dict.fromkeys(reader.fieldnames or ()))
    lacking = [name for name in needed if name not in there]
    if lacking:
        raise ValueError(f"it has no column {lacking[0]}")
    if any(None in row.values() or None in row for row in rows):
        raise ValueError("a row has too few or too many cells")
    return rows


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of an archive that are whole; a process that was killed may leave half of one."""
    if not file.is_file():
        return []
    found = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(_archive_line(text))
        except (ValueError, KeyError):
            continue
    return found


def _archive_line(text: str) -> dict[str, Any]:
    """One line of archive.jsonl.

    Raises:
        ValueError: It is no such line, or half of one.
        KeyError: It says too little.
    """
    line = json.loads(text)
    if not isinstance(line, dict):
        raise ValueError("a line is no JSON object")
    return {
        **_renamed(line),
        **{name: line[name] for name in ("key", "failed", "scores", "candidate")},
    }


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary neighbour and an atomic rename."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file through a temporary neighbour and an atomic rename."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    os.replace(temporary, path)


class RunLock:
    """Only one process may write a run folder; the lock dies with its process, however it dies.

    Args:
        folder: The run folder, which must exist.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._stream: IO[str] | None = None

    def __enter__(self) -> RunLock:
        try:
            stream = (self.folder.path / ".lock").open("w")
        except OSError as error:
            raise InputError(
                f"the run folder {self.folder.path} cannot be written ({error.strerror})",
                "make it writable, or start a new run with another output=",
            ) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise InputError(
                f"another process is writing {self.folder.path}",
                "wait for it, stop it, or give this run another name= or seed=",
            ) from None
        self._stream = stream
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.close()


def checked_out(checkout: Path) -> str | None:
    """The commit of a git checkout, with `+` if files of the package differ from it.

    Args:
        checkout: The folder that holds `.git`; of an installed package it holds none.

    Returns:
        The full hash, or None where there is no checkout or no git.
    """
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", PACKAGE.name], capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    if head.returncode or changed.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def peak_memory() -> int:
    """The most bytes this process has held in memory so far, mapped files included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe_environment(
    source_hashes: Mapping[str, str], tasks: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """What a reader needs to repeat the run.

    Args:
        source_hashes: Content hash of each source model.
        tasks: Notes on how this machine scores a task, by task and subject.

    Returns:
        JSON-ready mapping: command, commits (none outside a git checkout), versions, machine,
        sources, tasks.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commits": [commit] if (commit := checked_out(PACKAGE.parent)) else [],
        "versions": versions,
        "python": platform.python_version(),
        "machine": {
            "system": platform.system(),
            "arch": platform.machine(),
            "cores": os.cpu_count(),
        },
        "sources": dict(source_hashes),
        "tasks": {name: dict(notes) for name, notes in tasks.items()},
    }

"""`hm3rl init`: a config file for one's own models and data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from hm3rl import registry
from hm3rl.config.values import LONGEST_NAME, shown
from hm3rl.errors import InputError
from hm3rl.export.sources import stored_dtype, widest
from hm3rl.files import write_text
from hm3rl.models.loading import is_adapter
from hm3rl.models.zoo import resolve_source
from hm3rl.run.build import DTYPES

LONGEST_ANSWER = 64
"""Tokens of an answer where the models have room for that."""

FORMS = {
    "--expert": "NAME=FOLDER",
    "--sources": "NAME=FOLDER",
    "--fields": "prompt=NAME, reference=NAME",
    "--task": "NAME=FILE.jsonl[:METRIC] or NAME=lm_eval:TASK",
}
"""How the words of an option are written."""

DOWNLOAD = "give a checkpoint folder; a model of the hub: hf download USER/NAME --local-dir FOLDER"


def split_pairs(words: Sequence[str], what: str) -> dict[str, str]:
    """Read `NAME=VALUE` words of an option of `FORMS`.

    Raises:
        InputError: A word without a name or a value, or a name given twice.
    """
    pairs: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value:
            raise InputError(f"cannot read {what} {word!r}", f"write {what} {FORMS[what]}")
        if name in pairs:
            raise InputError(f"{what} {name} is given twice", "give every name once")
        pairs[name] = value
    return pairs


COMMENTS = {
    "budget": "models that are scored; 30 show how long one takes",
    "dtype": "as the sources are stored; on a CPU without bfloat16 units float32 is quicker",
    "device": "cuda on a GPU",
    "max_new_tokens": "longest answer in tokens; longer ones are cut there",
    "chat_template": "true for models that follow instructions",
}
"""What stands beside the keys that people change, the first time each of them occurs."""


def _with_comments(body: str) -> str:
    """YAML with a comment beside the first of each key of `COMMENTS`."""
    left, lines = dict(COMMENTS), []
    for line in body.splitlines():
        comment = left.pop(line.strip().partition(":")[0], None)
        lines.append(line if comment is None else f"{line}  # {comment}")
    return "\n".join(lines) + "\n"


def _stored_dtype(sources: Sequence[str]) -> str:
    """The precision that holds all full checkpoints exactly, of those that a pool can have.

    Raises:
        InputError: A folder holds no usable weights.
    """
    folders = [resolve_source(source) for source in sources]
    stored = widest({stored_dtype(folder) for folder in folders if not is_adapter(folder)})
    names = {dtype: name for name, dtype in DTYPES.items()}
    return names.get(stored, "float32")


def _answer_tokens(base: str) -> int:
    """Leave at least half of the base's positions to the prompts.

    Raises:
        InputError: The base has no readable config.json.
    """
    file = resolve_source(base) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        positions = config.get("max_position_embeddings", config.get("n_positions"))
        return min(LONGEST_ANSWER, int(positions or 2 * LONGEST_ANSWER) // 2)
    except (OSError, ValueError, AttributeError, TypeError):
        raise InputError(f"--base: {file} cannot be read", "give a checkpoint folder") from None


def _task(name: str, value: str, answer: int, fields: Mapping[str, str]) -> dict[str, object]:
    """The entry of one `--task NAME=VALUE`; `answer` is the longest one, in tokens.

    Raises:
        InputError: No such file, or an unknown metric.
    """
    kind, colon, rest = value.partition(":")
    if kind == "lm_eval" and rest:
        # A name can be looked up with network and the extra only; `hm3rl check` does.
        if not rest.endswith((".yaml", ".yml")):
            return {"kind": "lm_eval", "lm_eval": rest}
        if not Path(rest).is_file():
            raise InputError(f"--task {name}: no such file: {rest}", "give a YAML task's path")
        return {"kind": "lm_eval", "lm_eval": str(Path(rest).resolve())}
    path, colon, metric = value.rpartition(":")
    if not colon or metric not in registry.names("metric"):
        if colon and not Path(value).is_file():
            known = ", ".join(registry.names("metric"))
            raise InputError(f"unknown metric {metric!r}", f"one of {known}")
        path, metric = value, ""
    if not Path(path).is_file():
        raise InputError(
            f"--task {name}: no such file: {path}",
            "give a JSONL file, or lm_eval:TASK for a task of the lm-evaluation-harness",
        )
    return {
        "kind": "jsonl",
        "path": str(Path(path).resolve()),
        **({"fields": dict(fields)} if fields else {}),
        "metric": metric or _metric_of(Path(path)),
        "max_new_tokens": answer,
        "chat_template": False,
    }


def _metric_of(file: Path) -> str:
    """The metric of a file that none is named for: whether its first line has choices."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        first = stream.readline()
    names = first.strip().split(",") if file.suffix == ".csv" else re.findall(r'"(\w+)"\s*:', first)
    return "choice" if "choices" in names else "exact_match"


def write_config(
    directory: Path,
    name: str,
    base: str,
    experts: Sequence[str],
    tasks: Sequence[str],
    fields: Sequence[str] = (),
) -> Path:
    """Write `directory/experiment/NAME.yaml`.

    Args:
        directory: Folder of the user's own config files; made if missing.
        name: Name of the experiment.
        base: Folder of the base model.
        experts: `NAME=FOLDER` for each expert.
        tasks: `NAME=FILE.jsonl`, `NAME=FILE.jsonl:metric` or `NAME=lm_eval:TASK` for each task.
        fields: What the files call `prompt`, `reference` and `tests`: `prompt=question`.

    Returns:
        The file written.

    Raises:
        InputError: A folder or file is missing, an unknown metric, a name that cannot be a file's,
            or the config exists already.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"--name {shown(name)!r} cannot name an experiment",
            f"use letters, digits, _, - and dots, {LONGEST_NAME} of them at most",
        )
    folders = split_pairs(experts, "--expert")
    for label, folder in {"--base": base, **folders}.items():
        if not folder.startswith("zoo:") and not Path(folder).is_dir():
            what = label if label == "--base" else f"--expert {label}"
            raise InputError(f"{what}: no such folder: {folder}", DOWNLOAD)
    answer, dtype = _answer_tokens(base), _stored_dtype([base, *folders.values()])
    entries: dict[str, dict[str, object]] = {}
    for task, value in split_pairs(tasks, "--task").items():
        entries[task] = _task(task, value, answer, split_pairs(fields, "--fields"))
    if not folders or not entries:
        raise InputError("no expert or no task given", "give --expert and --task at least once")
    target = directory / "experiment" / f"{name}.yaml"
    if target.exists():
        raise InputError(f"{target} exists", "give another --name, or delete the file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {target.parent}: {error.strerror}", "give another folder"
        ) from None
    absolute = {
        label: folder if folder.startswith("zoo:") else str(Path(folder).resolve())
        for label, folder in {"": base, **folders}.items()
    }
    body = yaml.safe_dump(
        {
            "name": name,
            "budget": 100,
            "pool": {
                "base": absolute.pop(""),
                "experts": absolute,
                "dtype": dtype,
                "device": "cpu",
            },
            "tasks": entries,
        },
        sort_keys=False,
    )
    head = (
        "# @package _global_\n"
        f"# hm3rl search --config-dir {shlex.quote(str(directory))} experiment={name}\n"
        "# One objective for each task; each item belongs to search or test by its hash.\n"
        "defaults:\n  - override /pool: own\n  - override /tasks: own\n\n"
    )
    write_text(target, head + _with_comments(body))
    return target

"""What the report shows, read from run folders as plain data; no model is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.config.compose import settings_of_run
from hm3rl.errors import InputError
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.files import POSTERIOR, RunFolder
from hm3rl.objectives.scalarisation import RHO
from hm3rl.objectives.utility import Utility
from hm3rl.paths.layer_path import LayerPath
from hm3rl.reporting.leaderboard import blocks_of, definition, evaluations_used
from hm3rl.reporting.verdict import verdict

ERROR_CHARACTERS = 4000
"""Of a failure's traceback, the last ones are shown."""


def finished_folders(paths: Iterable[str | Path]) -> list[RunFolder]:
    """Find the finished runs in run folders and in folders of runs (sweeps, repeated seeds).

    Args:
        paths: Run folders, or folders that hold some at any depth.

    Returns:
        The run folders, in the order given; inside one folder sorted by path.

    Raises:
        InputError: A path does not exist, or holds no finished run.
    """
    found: list[RunFolder] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path} is no folder", "give run folders, or a folder of a sweep")
        own = RunFolder(path)
        inside = [own] if own.summary.is_file() else _runs_below(path)
        if not inside and own.config.is_file():
            RunFolder.finished(path)  # says how to finish it
        if not inside:
            raise InputError(
                f"there is no finished run in {path}",
                "give the folder of a run, or one that holds finished runs, such as a sweep's",
            )
        found += [folder for folder in inside if folder.path not in {f.path for f in found}]
    return found


def _runs_below(path: Path) -> list[RunFolder]:
    summaries = sorted(path.glob("**/" + RunFolder(path).summary.name))
    return [RunFolder(s.parent) for s in summaries if RunFolder(s.parent).archive.is_file()]


def report_data(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """Gather everything the page needs.

    Args:
        folders: Finished runs.

    Returns:
        A JSON-ready mapping: `runs`, one for each folder, and `curves`, the hypervolume of runs
        that differ in nothing but their seed.

    Raises:
        InputError: The runs have different objectives.
    """
    runs = [run_data(folder) for folder in folders]
    first = runs[0]
    for run in runs[1:]:
        if run["objectives"] != first["objectives"]:
            raise InputError(
                f"{run['folder']} has the objectives {', '.join(run['objectives'])}, "
                f"{first['folder']} has {', '.join(first['objectives'])}",
                "report runs with the same tasks, in the same order, together",
            )
    return {"runs": runs}


def run_data(folder: RunFolder) -> dict[str, Any]:
    """One run as plain data; see the keys below."""
    summary, environment = folder.read_summary(), folder.read_environment()
    objectives: list[str] = summary["objectives"]
    archive = folder.read_archive()
    recipes = {
        name: recipe_text(recipe)
        for line in archive
        for name, recipe in line["candidate"]["recipes"].items()
    }
    volumes, minimised = summary["hypervolume"], summary.get("minimised", {})
    front = [_model(row, objectives) for row in folder.read_front()]
    experts = _experts(archive, summary["sources"])
    for model in front:
        model["expert"] = experts.get(model["path"])
    utility = summary.get("utility") or Utility.of(settings_of_run(folder).agent).to_dict()
    return {
        "folder": str(folder.path),
        "name": summary["name"],
        "searcher": summary["searcher"],
        "seed": summary["seed"],
        "count": summary["evaluations"],
        "used": evaluations_used(summary),
        "failed": summary["failed"],
        "chosen_by": summary.get("chosen_by", {}),  # runs of hm3rl 0.1 do not say
        "objectives": objectives,
        "hypervolume": volumes,
        "z_star": summary["z_star"],
        "utilities": [definition(name, minimised) for name in minimised],
        "minimised": minimised,
        "utility": {**utility, "rho": RHO},
        "verdict": _verdict(front, summary),
        "sources": summary["sources"],
        "references": summary.get("references", {}),  # older runs have none
        "mergeability": _mergeability(folder),
        "further": summary.get("further") or None,
        "watched": summary.get("watched") or None,
        "answers": folder.read_answers()
        if folder.answers.is_file()
        else None,  # none in older runs
        "seconds": summary["seconds"],
        "command": environment["command"],
        "versions": environment["versions"],
        "recipes": recipes,
        "front": front,
        "evaluations": [_evaluation(row, objectives) for row in folder.read_evaluations()],
        "failures": _failures(folder, archive) if summary["failed"] else [],
    }


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """A merge recipe in one line: the operator, the weights, then whatever else was set."""
    parts = [str(recipe["operator"])]
    parts += [f"{expert} {_anchors(weight)}" for expert, weight in recipe["weights"].items()]
    for name, value in recipe.items():
        if name in ("operator", "weights") or not value or (name, value) == ("density", 1.0):
            continue
        parts.append(name if value is True else f"{name} {_anchors(value)}")
    return ", ".join(parts)


def _anchors(value: Any) -> str:
    """A number, or one that varies: its anchors over the depth, by block where they differ."""
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_anchors(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "/".join(_anchors(part) for part in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | None:
    """A number, or None where JSON has no word for it."""
    value = float(text)
    return value if math.isfinite(value) else None


def _model(row: Mapping[str, str], objectives: Sequence[str]) -> dict[str, Any]:
    scores = {
        block + suffix: [_number(row[f"{block}_{task}{suffix}"]) for task in objectives]
        for block in blocks_of([row])
        for suffix in ("", "_se")
    }
    return {
        "name": row["name"],
        "key": row["key"],
        "path": row["path"],
        "length": int(row["length"]),
        "on_test_front": row["on_test_front"] == "1",
        **scores,
    }


def _mergeability(folder: RunFolder) -> dict[str, Any] | None:
    if not folder.mergeability.is_file():
        return None
    found: dict[str, Any] = json.loads(folder.mergeability.read_text(encoding="utf-8"))
    return found


def _experts(archive: Sequence[Mapping[str, Any]], sources: Iterable[str]) -> dict[str, str]:
    """The experts by the text of their path; the archive begins with the sources, scored whole."""
    texts = [line["candidate"]["path"] for line in archive]
    found = {}
    for name in sources:
        text = next((text for text in texts if LayerPath.parse(text).whole_member == name), None)
        if text is not None:
            found[text] = name
    return found


def _verdict(front: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    """Whether merging was worth it, by what the front goes by."""
    decisive = POSTERIOR if front and POSTERIOR in front[0] else "search"
    best = {split: np.array(summary["z_star"][split]) for split in ("search", "test")}
    experts, blends = summary["sources"], summary.get("references", {})
    return verdict(
        {model["name"]: np.array(model[decisive]) / best["search"] for model in front},
        {model["name"]: np.array(model["test"], float) / best["test"] for model in front},
        {name: np.array(one[decisive]) / best["search"] for name, one in experts.items()},
        {name: np.array(one["search"]) / best["search"] for name, one in blends.items()},
    )


def _evaluation(row: Mapping[str, str], objectives: Sequence[str]) -> dict[str, Any]:
    return {
        "evaluations": float(row["evaluations"]),
        "phase": row["phase"],
        "scores": [_number(row[task]) for task in objectives],
        "hypervolume": float(row["hypervolume"]),
        "failed": row["failed"] == "1",
        "path": row["path"],
    }


def _failures(folder: RunFolder, archive: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The failed candidates with the end of their tracebacks."""
    failed = {line["key"]: line["candidate"]["path"] for line in archive if line["failed"]}
    errors: dict[str, str] = {}
    if folder.store.is_file():  # a run may keep its evaluations in a store shared with others
        with EvaluationStore(folder.store, read_only=True) as store:
            for _, evaluation in store.evaluations():
                if evaluation.key in failed and evaluation.error:
                    errors[evaluation.key] = evaluation.error[-ERROR_CHARACTERS:]
    missing = "the traceback is in the store this run shares with others"
    return [
        {"key": key, "path": path, "error": errors.get(key, missing)}
        for key, path in failed.items()
    ]

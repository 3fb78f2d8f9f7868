"""What finished runs scored, as a dataset that learners from elsewhere read: `hm3rl dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.envs.forms import BOX, DISCRETE, merge_path
from hm3rl.envs.path_env import PathEnv
from hm3rl.errors import InputError
from hm3rl.interop.minari_dataset import ScoredPath, check_new, dataset_id, write
from hm3rl.merging.blend import is_blend
from hm3rl.run.environment import environment_parts, offered_members
from hm3rl.run.finished import FinishedRun
from hm3rl.search.architecture_level import scored_on


@dataclass(frozen=True)
class Written:
    """A dataset that was written.

    Attributes:
        name: Its id.
        form: The form of its actions.
        episodes: How many it has.
        others: Scored models that are no path of the environment, such as merged models that were
            not offered as members.
    """

    name: str
    form: str
    episodes: int
    others: int


def write_dataset(paths: Sequence[str | Path], to: str, seed: int = 0) -> Written:
    """Write the scored paths of finished runs as episodes; failures are left out.

    An episode is walked in the environment that `gym.make("hm3rl/MergePath-v0", config=RUN)` gives:
    over blends, in the box form, if the run scored any; over members, in the discrete form, if not.
    A path that several runs scored is one episode.

    Args:
        paths: Run folders.
        to: `minari:NAME`.
        seed: Of the preferences drawn for the episodes.

    Raises:
        InputError: No run, a name that cannot be or is taken, Minari is not installed, or two runs
            whose paths or scores do not mean the same.
    """
    name = dataset_id(to)
    check_new(name)
    runs = [FinishedRun(path) for path in paths]
    forms = [_form(run) for run in runs]
    first = _environment(runs[0], forms[0])
    notes = _notes(runs[0], first, forms[0])
    scored: dict[str, ScoredPath] = {}
    others: set[str] = set()
    for run, form in zip(runs, forms, strict=True):
        env = first if run is runs[0] else _environment(run, form)
        _check_same(notes, _notes(run, env, form), runs[0], run)
        for key, one in _scored(run).items():
            if env.offers(one.path):
                scored.setdefault(key, one)
            else:
                others.add(key)
    config = str(runs[0].folder.path.resolve())
    searchers = sorted({str(run.summary["searcher"]) for run in runs})
    told = f"Paths of merged models that hm3rl ({', '.join(searchers)}) scored."
    write(name, first, list(scored.values()), notes, config, forms[0], seed, told)
    return Written(name, forms[0], len(scored), len(others))


def _form(run: FinishedRun) -> str:
    """The form in which a run's paths are walked."""
    members = {name for one in run.candidates.values() for name in one.path.members}
    return BOX if any(map(is_blend, members)) else DISCRETE


def _environment(run: FinishedRun, form: str) -> PathEnv:
    """The environment of a run, without the evaluations."""
    blended = form == BOX
    merged = [] if blended else [one.path.stem for one in offered_members(run.folder, run.settings)]
    parts = environment_parts(run.problem, run.settings, blended, merged)
    return merge_path(form, score_paths=lambda paths: [None] * len(paths), **parts)


def _notes(run: FinishedRun, env: PathEnv, form: str) -> dict[str, Any]:
    """All that two runs must share for their episodes to be of one environment."""
    blends = env.blends if isinstance(env, BlendPathEnv) else None
    return {
        **scored_on(run.problem),
        "form": form,
        "members": list(blends.experts if blends else env.space.members),
        "paths.blend_max": blends.largest if blends else None,
        "paths": asdict(run.problem.limits),
        "utility": env.utility.to_dict(),
    }


def _check_same(
    notes: dict[str, Any], others: dict[str, Any], first: FinishedRun, run: FinishedRun
) -> None:
    differ = [name for name, value in notes.items() if others[name] != value]
    if differ:
        raise InputError(
            f"paths of {first.folder.path} and {run.folder.path} are not of one environment: "
            + ", ".join(f"{name} {notes[name]} and {others[name]}" for name in differ),
            "write a dataset of each; runs of several seeds are of one environment if they have no "
            "merged members (search=architecture_only, agents over blends)",
        )


def _scored(run: FinishedRun) -> dict[str, ScoredPath]:
    """What a run scored, by key, in the order charged."""
    chosen_by = {
        line["key"]: line.get("chosen_by") or line.get("phase", "")
        for line in run.folder.read_archive()
    }
    vectors = run.archive.normalise(np.array([run.archive.vector(key) for key in run.candidates]))
    return {
        key: ScoredPath(one.path, vector, chosen_by[key])
        for (key, one), vector in zip(run.candidates.items(), vectors, strict=True)
    }

"""One zip holds an agent: Stable-Baselines3's own file, with a folder `hm3rl/` added to it.

The added part is JSON and NumPy arrays: settings, the path space, every evaluated path with its
outcome, and the surrogate's hyper-parameters. Nothing in it needs unpickling.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hm3rl.agents.encoder import PathShape
from hm3rl.agents.state import AgentState
from hm3rl.config.schema import AgentSettings, OutcomeSettings, ScreeningSettings
from hm3rl.errors import InputError
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import Outcome
from hm3rl.surrogate.features import Background

FORMAT = 1


def save_state(state: AgentState, path: Path) -> None:
    """Write an agent's state; see the module."""
    state.ppo.save(path)
    space, known = state.space, state.dataset
    meta = {
        "format": FORMAT,
        "settings": asdict(state.settings),
        "objectives": list(state.objectives),
        "seed": state.seed,
        "members": list(space.members),
        "num_layers": list(space.num_layers),
        "limits": asdict(space.limits),
    }
    arrays = {
        "context": space.context,
        "descriptors": space.descriptors,
        "can_follow": space.can_follow,
        "tokens": known.tokens,
        "vectors": known.vectors,
        "nll": known.nll,
        "failed": known.failed,
        "preferences": state.replay.preferences[~state.replay.imagined],
        "gp": state.surrogate.scores.log_parameters.numpy(),
    }
    if state.goals.only is not None:
        arrays["only"] = state.goals.only
    if state.surrogate.background is not None:
        named = state.surrogate.background._asdict()
        arrays.update({f"background_{name}": values for name, values in named.items()})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("hm3rl/meta.json", json.dumps(meta, indent=1))
        archive.writestr("hm3rl/arrays.npz", buffer.getvalue())


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("hm3rl/meta.json"))
            with np.load(io.BytesIO(archive.read("hm3rl/arrays.npz"))) as stored:
                arrays = {name: stored[name] for name in stored.files}
        if not isinstance(meta, dict) or "format" not in meta:
            raise ValueError("no format is stated")
    # ValueError: no JSON, or arrays that would have to be unpickled.
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no saved agent ({error})", "give a run's agent.zip") from error
    if meta["format"] != FORMAT:
        raise InputError(
            f"{path} has agent format {meta['format']}, this version reads {FORMAT}",
            "repeat the search with this version",
        )
    return meta, arrays


def _settings(meta: dict[str, Any], path: Path) -> AgentSettings:
    options = dict(meta["settings"])
    try:
        options["outcome"] = OutcomeSettings(**options["outcome"])
        options["screening"] = ScreeningSettings(**options["screening"])
        return AgentSettings(**options)
    except TypeError as error:
        raise InputError(
            f"{path} was saved with other options ({error})", "repeat the search with this version"
        ) from None


def _space(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> PathSpace:
    return PathSpace(
        tuple(meta["members"]),
        tuple(meta["num_layers"]),
        PathLimits(**meta["limits"]),
        arrays["context"],
        arrays["descriptors"],
        arrays["can_follow"],
    )


def stored_sizes(path: Path) -> tuple[PathShape, AgentSettings, int]:
    """Sizes of the path space, settings and number of objectives of a saved agent.

    Raises:
        InputError: The file is no saved agent.
    """
    meta, arrays = _read(path)
    try:
        shape = PathShape.of(_space(meta, arrays))
        return shape, _settings(meta, path), len(meta["objectives"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is a damaged agent ({error})", "give the agent.zip of another run"
        ) from None


def load_state(path: Path) -> AgentState:
    """Read the state of an agent; see the module.

    Raises:
        InputError: The file is no saved agent, or of other options than this version's.
    """
    meta, arrays = _read(path)
    space, settings = _space(meta, arrays), _settings(meta, path)
    state = AgentState(space, settings, tuple(meta["objectives"]), meta["seed"], arrays.get("only"))
    background = {
        name: arrays[f"background_{name}"]
        for name in Background._fields
        if f"background_{name}" in arrays
    }
    if background:
        state.set_background(Background(**background))
    state.ppo.set_parameters(str(path), device="cpu")
    for row, vector, nll, goal in zip(
        arrays["tokens"], arrays["vectors"], arrays["nll"], arrays["preferences"], strict=True
    ):
        state.observe(row[None], [Outcome(vector, nll)], goal[None])
    # Agents saved before failures were kept have none; they are asked for again, no more.
    for row in arrays.get("failed", np.zeros((0, space.horizon), dtype=np.int64)):
        state.dataset.add(row, Outcome.failure())
    state.surrogate.scores.log_parameters = torch.as_tensor(arrays["gp"])
    state.surrogate.restore(state.dataset)
    return state

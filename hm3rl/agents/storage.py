"""One zip holds an agent: Stable-Baselines3's own file, with a folder `hm3rl/` added to it.

The added part is JSON and NumPy arrays: settings, the path space, every evaluated path with its
outcome, and F-hat's hyper-parameters. Nothing in it needs unpickling.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hm3rl.agents.encoder import PathShape
from hm3rl.agents.features import Background
from hm3rl.agents.knowledge import Outcome
from hm3rl.envs.space import PathSpace
from hm3rl.errors import InputError
from hm3rl.paths.limits import PathLimits
from hm3rl.settings import AgentSettings, OutcomeSettings, ScreeningSettings

if TYPE_CHECKING:
    from hm3rl.agents.agent import MergeAgent

FORMAT = 1


def save_state(agent: MergeAgent, path: Path) -> None:
    """Write an agent; see the module."""
    agent.ppo.save(path)
    space, known = agent.space, agent.knowledge
    meta = {
        "format": FORMAT,
        "settings": asdict(agent.settings),
        "objectives": list(agent.objectives),
        "seed": agent.seed,
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
        "preferences": agent.replay.preferences[~agent.replay.imagined],
        "gp": agent.model.scores.log_parameters.numpy(),
    }
    if agent.goals.only is not None:
        arrays["only"] = agent.goals.only
    if agent.model.background is not None:
        named = agent.model.background._asdict()
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
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
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


def load_state(cls: type[MergeAgent], path: Path) -> MergeAgent:
    """Read an agent; see the module."""
    meta, arrays = _read(path)
    space, settings = _space(meta, arrays), _settings(meta, path)
    agent = cls(space, settings, tuple(meta["objectives"]), meta["seed"], arrays.get("only"))
    background = {
        name: arrays[f"background_{name}"]
        for name in Background._fields
        if f"background_{name}" in arrays
    }
    if background:
        agent.set_background(Background(**background))
    agent.ppo.set_parameters(str(path), device="cpu")
    for row, vector, nll, goal in zip(
        arrays["tokens"], arrays["vectors"], arrays["nll"], arrays["preferences"], strict=True
    ):
        agent._learn(row[None], [Outcome(vector, nll)], goal[None])
    # Agents saved before failures were kept have none; they are asked for again, no more.
    for row in arrays.get("failed", np.zeros((0, space.horizon), dtype=np.int64)):
        agent.knowledge.add(row, Outcome.failure())
    agent.model.scores.log_parameters = torch.as_tensor(arrays["gp"])
    agent.model.restore(agent.knowledge)
    return agent

"""One zip holds an agent: Stable-Baselines3's own file, with a folder `hm3rl/` added to it.

The added part is JSON and NumPy arrays: settings, the path space, every evaluated path with its
outcome, and the surrogate's hyper-parameters. Nothing in it needs unpickling.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hm3rl.agents.encoder import PathShape
from hm3rl.agents.state import AgentState
from hm3rl.agents.storage import read_parts, space_of, write_space
from hm3rl.config.agents import AcquisitionSettings, HM3AgentSettings, SurrogateSettings
from hm3rl.config.migrate import migrated_agent
from hm3rl.config.parts import options_of
from hm3rl.errors import InputError
from hm3rl.surrogate.dataset import Outcome
from hm3rl.surrogate.features import AuxiliaryData


def save_state(state: AgentState, path: Path) -> None:
    """Write an agent's state; see the module."""
    state.ppo.save(path)
    known = state.dataset
    arrays = {
        "tokens": known.tokens,
        "vectors": known.vectors,
        "nll": known.nll,
        "failed": known.failed,
        "preferences": state.replay.preferences[~state.replay.model_generated],
        "gp": state.surrogate.scores.log_parameters.numpy(),
    }
    if state.served.only is not None:
        arrays["only"] = state.served.only
    if state.surrogate.auxiliary is not None:
        named = state.surrogate.auxiliary._asdict()
        arrays.update({f"auxiliary_{name}": values for name, values in named.items()})
    write_space(
        path,
        state.space,
        state.objectives,
        arrays,
        settings=asdict(state.settings),
        surrogate=asdict(state.surrogate.settings),
        seed=state.seed,
    )


def _settings(meta: dict[str, Any], path: Path) -> tuple[HM3AgentSettings, SurrogateSettings]:
    agent, surrogate = meta["settings"], meta.get("surrogate", {})
    if meta["format"] == 1:
        agent, surrogate = migrated_agent(agent)
    try:
        options = type(options_of("surrogate", surrogate["name"]))(**surrogate)
        acquisition = AcquisitionSettings(**agent["acquisition"])
        return HM3AgentSettings(**{**agent, "acquisition": acquisition}), options
    except TypeError as error:
        raise InputError(
            f"{path} was saved with other options ({error})", "repeat the search with this version"
        ) from None


def stored_sizes(path: Path) -> tuple[PathShape, HM3AgentSettings, int]:
    """Sizes of the path space, settings and number of objectives of a saved agent.

    Raises:
        InputError: The file is no saved agent.
    """
    meta, arrays = read_parts(path)
    try:
        shape = PathShape.of(space_of(meta, arrays))
        return shape, _settings(meta, path)[0], len(meta["objectives"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is a damaged agent ({error})", "give the agent.zip of another run"
        ) from None


def load_state(path: Path) -> AgentState:
    """Read the state of an agent; see the module.

    Raises:
        InputError: The file is no saved agent, or of other options than this version's.
    """
    meta, arrays = read_parts(path)
    space, (settings, surrogate) = space_of(meta, arrays), _settings(meta, path)
    objectives, only = tuple(meta["objectives"]), arrays.get("only")
    state = AgentState(space, settings, surrogate, objectives, meta["seed"], only)
    auxiliary = {
        name: arrays[f"{written}_{name}"]
        for name in AuxiliaryData._fields
        for written in ("auxiliary", "background")  # the latter by version 0.1
        if f"{written}_{name}" in arrays
    }
    if auxiliary:
        state.set_auxiliary(AuxiliaryData(**auxiliary))
    state.ppo.set_parameters(str(path), device="cpu")
    for row, vector, nll, preference in zip(
        arrays["tokens"], arrays["vectors"], arrays["nll"], arrays["preferences"], strict=True
    ):
        state.observe(row[None], [Outcome(vector, nll)], preference[None])
    # Agents saved before failures were kept have none; they are asked for again, no more.
    for row in arrays.get("failed", np.zeros((0, space.horizon), dtype=np.int64)):
        state.dataset.add(row, Outcome.failure())
    state.surrogate.scores.log_parameters = torch.as_tensor(arrays["gp"])
    state.surrogate.restore(state.dataset)
    return state

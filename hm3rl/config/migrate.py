"""Configurations of older versions, read as this version's: one place for every renamed key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from hm3rl import registry
from hm3rl.config.parts import options_of
from hm3rl.config.tasks import ZOO_SPLIT, OwnTaskSettings
from hm3rl.errors import InputError

PARTS_OF_SEARCH = {
    "de": "evolution",
    "nsga2": "evolution",
    "nsga3": "evolution",
    "cmaes": "cmaes",
    "cmaes_dfs": "data_flow",
    "rmm": "rmm",
    "depth_wise": "depth_wise",
    "map": "map",
    "mm_mo": "mm_mo",
}
"""Key under which version 0.1 kept the options of one searcher; each is the node `search` now."""


def migrated(plain: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration in the layout of this version.

    Args:
        plain: As it was stored; a configuration of this version comes back as it is.

    Returns:
        A new mapping.
    """
    found = dict(plain)
    agent = found.get("agent")
    if isinstance(agent, Mapping) and "outcome" in agent:
        found["agent"], found["surrogate"] = migrated_agent(agent)
    search = found.get("search")
    if isinstance(search, Mapping) and "mm_mo" in search:
        found["search"] = _search(search)
    pool = found.get("pool")
    if isinstance(pool, Mapping) and "smollm2_adapters" not in pool:
        # They were found in the checkout without a key.
        if any(str(one).startswith("smollm2:") for one in dict(pool.get("experts") or {}).values()):
            found["pool"] = {**pool, "smollm2_adapters": "experiments/smollm2/adapters"}
    tasks = found.get("tasks")
    if isinstance(tasks, Mapping):
        found["tasks"] = {name: _task(node) for name, node in tasks.items()}
    return found


def migrated_agent(agent: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The agent's options of version 0.1 as this version's, and the surrogate's.

    Args:
        agent: Has a key `outcome`.
    """
    found = {"name": "hm3", **agent}
    outcome = dict(found.pop("outcome"))
    surrogate = {"name": outcome.pop("kind"), **outcome}
    acquisition = dict(found.pop("screening"))
    acquisition["function"] = acquisition.pop("acquisition")
    found["acquisition"] = acquisition
    found["model_generated"] = found.pop("imagined")
    return found, surrogate


def _search(search: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the searcher of version 0.1 read."""
    name = str(search["name"])
    own = search.get(PARTS_OF_SEARCH.get(name, ""), {})
    known = {one.name for one in fields(options_of("searcher", name))}
    parameter = {**search["parameter"], "mm_mo": search["mm_mo"]}
    everything = {**search, "parameter": parameter, **own}
    return {key: value for key, value in everything.items() if key in known}


def _task(node: Any) -> Any:
    """A task without keys that its kind never read, in the shares it had."""
    if not isinstance(node, Mapping):
        return node
    try:
        options = options_of("task", str(node.get("kind")))
    except InputError:  # a plugin's, which is refused with its name elsewhere
        return node
    if not registry.is_shipped("task", str(node["kind"])):
        return node
    found = dict(node)
    if "lm_eval" in node and "worst" in node:
        known = {one.name for one in fields(options)}
        found = {key: value for key, value in node.items() if key in known}
    if isinstance(options, OwnTaskSettings) and "split" not in node:
        found["split"] = asdict(ZOO_SPLIT)
    return found

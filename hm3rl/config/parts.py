"""Options of exchangeable parts as nodes of the configuration: Hydra groups, and typed tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from hm3rl import registry
from hm3rl.config.agents import AgentSettings, SurrogateSettings
from hm3rl.config.schema import ComposedSettings, OpenSettings, RunSettings
from hm3rl.config.searchers import SearcherSettings
from hm3rl.config.tasks import TaskSettings
from hm3rl.errors import InputError

GROUPS = {"search": "searcher", "agent": "agent", "surrogate": "surrogate"}
"""Kind of part by config group, which is the name of its node too."""

SETTINGS: dict[str, type[Any]] = {
    "searcher": SearcherSettings,
    "agent": AgentSettings,
    "surrogate": SurrogateSettings,
    "task": TaskSettings,
}
"""What options of a part of each kind derive from."""


def options_of(kind: str, name: str) -> Any:
    """Default options of a part.

    Raises:
        InputError: There is no such part, or its options do not derive from its kind's settings.
    """
    part, base = registry.find(kind, name), SETTINGS[kind]
    options = part.options_type() or base
    if not (isinstance(options, type) and issubclass(options, base)):
        raise InputError(
            f"the options of the {kind} {name} are {options!r}",
            f"give a dataclass that derives from {base.__module__}.{base.__name__}",
        )
    return options(kind=name) if kind == "task" else options(name=name)


def store_groups(check: bool = True) -> None:
    """Give Hydra the schema, and the parts there are as choices of their groups.

    Args:
        check: Off: parts take any key, as long as the plugins that define them are not known.
    """
    store = ConfigStore.instance()
    store.store(name="schema", node=ComposedSettings if check else OpenSettings)
    for group, kind in GROUPS.items():
        for name in registry.names(kind):
            store.store(group=group, name=name, node=options_of(kind, name) if check else {})


def typed(plain: Mapping[str, Any]) -> RunSettings:
    """Settings of a run from plain containers, every part with its own options.

    Raises:
        InputError: A part is unknown.
        OmegaConfBaseException: A key is unknown, or a value of the wrong type.
    """
    chosen: dict[str, Any] = {}
    for group, kind in GROUPS.items():
        node = plain.get(group)
        named = node.get("name") if isinstance(node, Mapping) else None
        chosen[group] = options_of(kind, str(named)) if named else getattr(RunSettings(), group)
    tasks = plain.get("tasks") or {}
    chosen["tasks"] = {name: _task(str(name), node) for name, node in dict(tasks).items()}
    merged = OmegaConf.merge(OmegaConf.structured(RunSettings(**chosen)), plain)
    assert isinstance(merged, DictConfig)
    settings = OmegaConf.to_object(merged)
    assert isinstance(settings, RunSettings)
    return settings


def _task(name: str, node: Any) -> TaskSettings:
    """Default options of the kind that a task's node names."""
    kind = node.get("kind") if isinstance(node, Mapping) else None
    if not isinstance(kind, str) or not kind:
        raise InputError(
            f"tasks.{name} has no kind", f"add tasks.{name}.kind={'|'.join(registry.names('task'))}"
        )
    options: TaskSettings = options_of("task", kind)
    return options

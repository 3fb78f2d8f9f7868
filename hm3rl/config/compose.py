"""From Hydra overrides to a `RunSettings`, and back from a run folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from hm3rl.config.explain import explain
from hm3rl.config.migrate import migrated
from hm3rl.config.parts import GROUPS, store_groups, typed
from hm3rl.config.schema import RunSettings, config_folder
from hm3rl.config.words import (
    emptied,
    empties,
    first_job,
    parse,
    refuse_ignored,
    with_open_keys,
)
from hm3rl.errors import InputError
from hm3rl.files import RunFolder, check_name
from hm3rl.plugins import absolute, load_plugins


def to_settings(config: DictConfig) -> RunSettings:
    """Turn a composed configuration into dataclasses; its plugins are loaded first.

    Raises:
        InputError: A mandatory value is missing, a value does not fit its type, a key is unknown,
            a part is, or a plugin cannot be imported.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return from_plain({str(key): value for key, value in plain.items() if key != "hydra"})


def from_plain(plain: dict[str, Any]) -> RunSettings:
    """Settings from plain containers, as `to_dict` gives them; their plugins are loaded first.

    Raises:
        InputError: See `to_settings`.
    """
    plugins = absolute(plain.get("plugins") or [])
    load_plugins(plugins)
    try:
        settings = typed(plain)
    except MissingMandatoryValue as error:
        raise InputError(
            f"the configuration is not complete: {str(error).splitlines()[0]}",
            "set the key on the command line: key=value",
        ) from None
    except OmegaConfBaseException as error:
        raise explain(error) from None
    settings.plugins = plugins
    return settings


def compose_settings(overrides: Sequence[str], folder: Path | None = None) -> RunSettings:
    """Compose the configuration from Hydra overrides.

    Args:
        overrides: Such as `["experiment=tiny", "budget=50"]`.
        folder: Folder with config.yaml; default the package's.

    Returns:
        The settings.

    Raises:
        InputError: An unknown key or group, a value of the wrong type, or a name that is none.
    """
    if any(word.startswith(("resume=", "+resume=")) for word in overrides):
        raise InputError("resume= goes with a plain `hm3rl search`", "drop it here")
    words = parse(overrides)
    load_named(words)
    refuse_ignored(words, sweep=False)
    composed = partial(_compose, folder=folder)
    lines = emptied(with_open_keys(words, partial(_tasks, folder)), composed)
    settings = to_settings(composed(lines))
    check_name("name", settings.name)  # not where runs are opened: older ones may have any
    return settings


def sweep_words(overrides: Sequence[str]) -> tuple[list[str], RunSettings, str | None]:
    """Read the overrides of a sweep.

    Args:
        overrides: Such as `["experiment=tiny", "seed=0,1,2"]`.

    Returns:
        The words for Hydra; the settings of the first job, composed so that a slip is found before
        any job starts; and the folder that the words name for the sweep, if they do.

    Raises:
        InputError: What `compose_settings` raises, or a sweep over no value.
    """
    words = parse(overrides)
    load_named(words)
    refuse_ignored(words, sweep=True)
    for word in words:
        if empties(word):
            raise InputError(
                f"{word.input_line} in a sweep, which can only add entries",
                f"take them out one by one: ~{word.key_or_group}.NAME",
            )
    settings = compose_settings(first_job(words))
    named = [str(word.value()) for word in words if word.key_or_group == "hydra.sweep.dir"]
    return with_open_keys(words, partial(_tasks, None)), settings, named[-1] if named else None


def _tasks(folder: Path | None, words: Sequence[str]) -> list[str]:
    """Names of the tasks that some words alone compose."""
    return [str(name) for name in _compose(first_job(parse(words)), folder).tasks]


def load_named(words: Sequence[Override]) -> None:
    """Load the plugins that a command line names, so that their parts can be chosen on it.

    Raises:
        InputError: One cannot be imported.
    """
    for word in words:
        if word.key_or_group == "plugins" and not (word.is_delete() or word.is_sweep_override()):
            named = word.value()
            if isinstance(named, list):
                load_plugins(absolute(map(str, named)))


def _compose(words: Sequence[str], folder: Path | None) -> DictConfig:
    """Compose without any check of what comes out.

    A file may name the plugins from whose parts it, or the command line, chooses. They are read
    from a first composition then, with what ships in place of every part.

    Raises:
        InputError: Hydra cannot.
    """
    try:
        return _composed_once(words, folder)
    except InputError:
        others = [one.input_line or "" for one in parse(words) if not _is_of_a_part(one)]
        shipped = [f"{group}={getattr(RunSettings(), group).name}" for group in GROUPS]
        try:
            first = _composed_once([*others, *shipped], folder, check=False)
        except InputError:
            first = None  # it is not for want of a plugin
        if first is None or not first.plugins or not load_plugins(absolute(first.plugins)):
            raise
    return _composed_once(words, folder)


def _is_of_a_part(word: Override) -> bool:
    """Whether a word chooses a part or sets one of its options."""
    return word.key_or_group.partition(".")[0] in (*GROUPS, "tasks")


def _composed_once(words: Sequence[str], folder: Path | None, check: bool = True) -> DictConfig:
    store_groups(check)
    where = config_folder() if folder is None else folder.resolve()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(where)):
            config = compose("config", overrides=list(words), return_hydra_config=True)
    except Exception as error:  # Hydra asserts, recurses and iterates into whatever a word holds
        raise explain(error) from None
    with open_dict(config):
        own = cast(dict[str, Any], OmegaConf.to_container(config.pop("hydra").run))
    if own["dir"] != ".":
        raise InputError(
            "a config file sets hydra.run.dir, which nothing here reads",
            "drop it; output=FOLDER names a run's folder",
        )
    return config


def settings_of_run(folder: RunFolder) -> RunSettings:
    """Read the resolved configuration of a run folder.

    Raises:
        InputError: The file cannot be read as a configuration of this version.
    """
    try:
        loaded = OmegaConf.load(folder.config)
        if not isinstance(loaded, DictConfig) or not {"pool", "tasks"} <= set(loaded):
            raise ValueError("it names no pool and no tasks")
    # A text that is no YAML, no UTF-8 or no mapping, or nested too deeply.
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, RecursionError) as e:
        raise InputError(
            f"{folder.config} is damaged or missing: "
            f"{next(iter(str(e).splitlines()), type(e).__name__)}",
            "restore it, or start the search anew with its own words and "
            f"evaluation.store={folder.store}: nothing stored is computed again",
        ) from None
    plain = OmegaConf.to_container(loaded, resolve=True)
    assert isinstance(plain, dict)
    try:
        return from_plain(migrated({str(key): value for key, value in plain.items()}))
    except InputError as e:
        raise InputError(
            f"cannot read {folder.config}: {e.what}",
            "restore the file; if another version of hm3rl wrote the run, use that one",
        ) from None


def resume_settings(overrides: Sequence[str]) -> tuple[RunSettings, RunFolder] | None:
    """Settings of a run to be resumed.

    Args:
        overrides: Hydra overrides that may contain `resume=RUN`.

    Returns:
        The run's own settings, with another budget if asked for, and its folder; None if nothing is
        to be resumed.

    Raises:
        InputError: Anything but `resume` and `budget` is overridden, the budget is below what the
            run has used, or there is no such run.
    """
    given = dict(word.partition("=")[::2] for word in overrides)
    if not given.get("resume"):
        return None
    others = [key for key in given if key not in ("resume", "budget")]
    if others:
        raise InputError(
            f"resume= continues a run as it was; it cannot change {', '.join(others)}",
            "drop the other overrides (only budget= may change), or start a new run",
        )
    folder = RunFolder.existing(given["resume"])
    settings = settings_of_run(folder)
    if "budget" in given:
        settings.planned_budget = settings.planned_budget or settings.budget
        try:
            settings.budget = int(given["budget"])
        except ValueError:
            raise InputError(
                f"budget={given['budget']} is not a whole number", "give budget=300"
            ) from None
        used = folder.used()
        if settings.budget < used:
            raise InputError(
                f"budget={settings.budget} is below the {used:g} evaluations that the run in "
                f"{folder.path} has used",
                f"give budget={math.ceil(used)} or more; a smaller search is a new run, which "
                f"reads these scores with evaluation.store={folder.store}",
            )
    settings.output = str(folder.path)
    return settings, folder


def to_yaml(settings: RunSettings) -> str:
    """The settings as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def to_dict(settings: RunSettings) -> dict[str, Any]:
    """The settings as plain containers."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(settings)))

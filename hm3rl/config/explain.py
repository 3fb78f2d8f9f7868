"""What Hydra and OmegaConf say about a configuration, in words that name the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError

from hm3rl import registry
from hm3rl.config.parts import GROUPS, options_of
from hm3rl.config.schema import RunSettings, config_folder
from hm3rl.config.values import shown
from hm3rl.errors import InputError

KEYS = "the keys and their types: hm3rl/config/schema.py, or the API reference"


def config_groups() -> list[str]:
    """Names of the groups of config files, such as `pool` and `evaluation/backend`."""
    root = config_folder()
    folders = {above for file in root.rglob("*.yaml") for above in file.relative_to(root).parents}
    return sorted({*(folder.as_posix() for folder in folders - {Path()}), *GROUPS})


def choices_of(group: str) -> list[str]:
    """Names of the choices of a group: its files, and the parts there are."""
    files = {file.stem for file in (config_folder() / group).glob("*.yaml")}
    return sorted({*files, *(registry.names(GROUPS[group]) if group in GROUPS else ())})


def explain(error: Exception, where: str = "the configuration does not compose") -> InputError:
    """Turn an error of composition into one that names the key and what to write instead.

    Args:
        error: What Hydra or OmegaConf raised; the innermost cause holds the reason.
        where: What cannot be done, for errors that do not say it.
    """
    if isinstance(error, RecursionError):
        return InputError(
            f"{where}: it is nested too deeply", "a configuration has a handful of levels"
        )
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, MissingConfigException):
        return _missing_choice(cause)
    if isinstance(cause, OverrideParseException):
        return InputError(
            f"cannot read {shown(cause.override)!r}",
            "write KEY=VALUE; put quotes round values with spaces, brackets or commas",
        )
    if isinstance(cause, MarkedYAMLError):
        mark = cause.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        return InputError(f"{where} is not YAML: {cause.problem}", "write `key: value` lines")
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return unknown_key(str(cause.full_key), _level(cause))
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # A key of a file: Hydra tells it in words only.
    in_file = re.match(r"In '(.+?)': Config(?:Key|Attribute)Error", lines[0])
    key = re.search(r"full_key: (\S+)", str(cause))
    if in_file and key:
        return unknown_key(key[1], where=f" in {in_file[1]}.yaml")
    said = "; ".join(shown(line, 200) for line in lines[:2]) or type(cause).__name__
    if any("Could not override" in line for line in lines):
        return InputError(
            f"{where}: {said}", "an experiment file begins with the line `# @package _global_`"
        )
    if any("Ambiguous value" in line for line in lines):
        return InputError(f"{where}: {lines[0]}", "add -m for a sweep, or write key=[a,b]")
    if any("Could not append" in line for line in lines):
        return InputError(f"{where}: {said}", "write KEY=VALUE without + for a key that is there")
    return InputError(f"{where}: {said}", f"give a value of that type; {KEYS}")


def unknown_key(key: str, level: Sequence[str] = (), where: str = "") -> InputError:
    """Name the keys that look like an unknown one.

    Args:
        key: The whole dotted key, such as `agent.gama`.
        level: The keys there are where it was looked for; empty where these are not known.
        where: Where the key stands, for the message.
    """
    above, dot, last = key.rpartition(".")
    every = list(dotted_keys(RunSettings))
    every += [
        f"{group}.{name}"
        for group, kind in GROUPS.items()
        for part in registry.names(kind)
        for name in dotted_keys(type(options_of(kind, part)))
    ]
    # What stands before = is a key or a group of config files, such as experiment.
    groups = [] if above else config_groups()
    if "/" in key:
        level, every = (), []
    near = [f"{above}{dot}{name}" for name in get_close_matches(last, [*level, *groups], n=1)]
    near += [f"{above}{dot}{name}" for name in level if initials(name) == last != name]
    # A key that stands elsewhere: dtype for pool.dtype.
    near += [name for name in every if name.rpartition(".")[2] == last and name != key]
    if not level:
        near += get_close_matches(key, [name for name in every if name != key], n=1)
    if near:
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?"
    elif level:
        hint = f"keys of {above or 'a run'}: {', '.join(level)}"
    else:
        hint = KEYS
    if owners := _parts_with(key):
        hint += f"; {last} is an option of {', '.join(owners)}"
    if re.match(rf" in ({'|'.join(GROUPS)})/", where):
        hint += "; the file begins with `defaults: [NAME]`, the part whose options it sets"
    if above == "tasks":
        hint += f"; a task is added with +{key}.kind=KIND"
    return InputError(f"unknown key {shown(key)}{where}", hint)


def initials(name: str) -> str:
    """What people write for short: lr for learning_rate."""
    return "".join(word[:1] for word in name.split("_"))


def _parts_with(key: str) -> list[str]:
    """The choices of a group that have a key: `search=de` for `search.population`."""
    group = key.partition(".")[0]
    return [
        f"{group}={name}"
        for name in (registry.names(GROUPS[group]) if group in GROUPS else ())
        if key in dotted_keys(type(options_of(GROUPS[group], name)), f"{group}.")
    ]


def dotted_keys(settings: type[Any], above: str = "") -> Iterator[str]:
    """All keys of a dataclass of settings, those of its parts included, such as `pool.dtype`."""
    instance = settings()
    for one in fields(settings):
        value = getattr(instance, one.name)
        yield above + one.name
        if is_dataclass(value):
            yield from dotted_keys(type(value), f"{above}{one.name}.")


def _level(error: OmegaConfBaseException) -> list[str]:
    """The keys beside an unknown one; what Hydra keeps there is not a run's."""
    keys = [] if error.parent_node is None else list(error.parent_node)
    return [str(key) for key in keys if key != "hydra"]


def _missing_choice(error: MissingConfigException) -> InputError:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    there = list(error.options or ())
    near = get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    hint += f"there are: {', '.join(there)}" if there else f"there is no group {group}"
    if group in GROUPS:
        hint += "; one of your own is found with plugins=[FILE.py]"
    if not group.startswith("hydra"):
        hint += "; files of your own are found with --config-dir"
    return InputError(f"there is no {group}={shown(name)}", hint)

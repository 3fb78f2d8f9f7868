"""The words of a command line that Hydra reads: what it would ignore, or dies of, is refused here.

Hydra itself decides what `KEY=VALUE` means. Added are tasks on the command line
(`+tasks.arc.kind=lm_eval +tasks.arc.lm_eval=arc_easy`), and folders of any name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from hm3rl.config.explain import choices_of, config_groups, explain
from hm3rl.config.parts import GROUPS
from hm3rl.config.values import LONGEST_NAME, shown
from hm3rl.errors import InputError

IN_A_SWEEP = ("hydra.sweep.", "hydra.sweeper", "hydra.launcher", "hydra/launcher", "hydra/sweeper")
"""What of Hydra's own configuration a sweep obeys; a single search composes and runs by itself."""

SEARCH_PATH = "hydra.searchpath"


def parse(words: Sequence[str]) -> list[Override]:
    """Read overrides as Hydra does.

    Raises:
        InputError: Names the word that is none.
    """
    parser = OverridesParser.create()
    found = []
    for word in words:
        try:
            found += parser.parse_overrides([word])
        except Exception as error:  # the grammar's parser raises whatever a word leads it to
            raise explain(error, f"cannot read {shown(word)!r}") from None
    for override in found:
        # Hydra looks for a folder of that name: it may be a group.
        if len(override.key_or_group.encode()) > LONGEST_NAME:
            raise InputError(
                f"the key {shown(override.key_or_group)} is too long",
                f"give names of {LONGEST_NAME} bytes at most",
            )
    return found


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes it literally, whatever characters it has."""
    # Backslashes are literal there but before a quote.
    text = re.sub(r"(\\*)'", r"\1\1\\'", text)
    end = len(text) - len(text.rstrip("\\"))
    return f"'{text}{text[len(text) - end :]}'"


def search_path(folder: Path) -> str:
    """The override by which Hydra finds a folder of config files.

    Raises:
        InputError: A name that OmegaConf would take for an interpolation, quoted or not.
    """
    if "${" in str(folder):
        raise InputError(f"the config folder {folder} has ${{ in its name", "rename the folder")
    return f"{SEARCH_PATH}=[{quoted(f'file://{folder}')}]"


def refuse_ignored(words: Sequence[Override], sweep: bool) -> None:
    """Refuse words that Hydra takes and nothing here obeys, or that name no choice of a group.

    Args:
        words: Overrides.
        sweep: Whether they are a sweep's, which runs through Hydra's own launcher.

    Raises:
        InputError: Names the word and what to write instead.
    """
    groups = config_groups()
    for word in words:
        key = word.key_or_group
        if key == "hydra" or key.startswith(("hydra.", "hydra/")):
            _refuse_hydra(key, sweep)
        elif key.endswith(".name") and key.removesuffix(".name") in GROUPS:
            group = key.removesuffix(".name")
            raise InputError(
                f"{shown(word.input_line)} would name one part and keep the options of another",
                f"choose it with {group}=NAME",
            )
        elif key in groups and not (word.is_delete() or word.is_sweep_override()):
            value = word.value()
            chosen = value if isinstance(value, list) else [value]
            if not chosen or not all(isinstance(name, str) and name for name in chosen):
                there = choices_of(key)
                instead = f"choose one of {', '.join(there)}" if there else f"set {key}.KEY=VALUE"
                raise InputError(
                    f"{shown(word.input_line)} names no choice of the group {key}",
                    f"leave it out, or {instead}",
                )


def composes(word: Override) -> bool:
    """Whether a word says what a run is, rather than how Hydra runs a sweep of it."""
    return word.key_or_group == SEARCH_PATH or not word.key_or_group.startswith("hydra")


def _refuse_hydra(key: str, sweep: bool) -> None:
    if key == SEARCH_PATH or (sweep and key.startswith(IN_A_SWEEP)):
        return
    if key.startswith(IN_A_SWEEP):
        raise InputError(f"{key} means nothing to a single search", "add -m to make it a sweep")
    instead = "hydra.sweep.dir=FOLDER names a sweep's" if sweep else "output=FOLDER names a run's"
    raise InputError(
        f"{key} means nothing here: Hydra's own settings are not read", f"drop it; {instead} folder"
    )


def first_job(words: Sequence[Override]) -> list[str]:
    """The words that say what a sweep's first job is.

    Raises:
        InputError: A sweep over no value.
    """
    found = []
    for word in filter(composes, words):
        line = word.input_line or ""
        if word.is_sweep_override():
            try:
                value = next(iter(word.sweep_string_iterator()))
            except (StopIteration, HydraException):  # glob(...) asks for what only Hydra has
                raise InputError(
                    f"{shown(line)} names no value to sweep over", "write key=value1,value2"
                ) from None
            line = f"{word.get_key_element()}={value}"
        found.append(line)
    return found


def with_open_keys(
    words: Sequence[Override], existing: Callable[[Sequence[str]], Collection[str]]
) -> list[str]:
    """Let `tasks.X.KEY=VALUE` set what a file leaves out, and `+tasks.X.KEY=VALUE` add a task.

    Which keys a task has depends on its kind, which is known when all is composed. Until then a
    task is a plain mapping; with `++` Hydra takes any key of it. So it is with `kwargs`, the
    arguments that a part hands on (`agent.kwargs.learning_rate=1e-3`).

    Args:
        words: Overrides.
        existing: Gives the names of the tasks there are, from the other words.

    Returns:
        The words as Hydra takes them.
    """
    places = {
        number: word.key_or_group.split(".")[1]
        for number, word in enumerate(words)
        if re.match(r"tasks\.[^.]+\..", word.key_or_group) and not word.is_delete()
    }
    lines = [word.input_line or "" for word in words]
    for number, word in enumerate(words):
        if (
            re.match(rf"({'|'.join(GROUPS)})\.kwargs\..", word.key_or_group)
            and not word.is_delete()
        ):
            lines[number] = f"++{lines[number].lstrip('+')}"
    if not places:
        return lines
    # A task that some word takes out is there until then, and its keys may be set.
    removals = {
        number
        for number, word in enumerate(words)
        if word.is_delete() and re.fullmatch(r"tasks\.[^.]+", word.key_or_group)
    }
    apart = {*places, *removals}
    there = existing([line for number, line in enumerate(lines) if number not in apart])
    added = {n for at, n in places.items() if words[at].is_add() or words[at].is_force_add()}
    for number, name in places.items():
        # A word of a task that is not there stays as it is, for Hydra to refuse.
        if name in there or name in added:
            lines[number] = f"++{lines[number].lstrip('+')}"
    return lines


def empties(word: Override) -> bool:
    """Whether an override is `KEY={}`, which Hydra would merge, and so change nothing."""
    return not word.is_sweep_override() and word.value() == {}


def emptied(lines: Sequence[str], composed: Callable[[Sequence[str]], DictConfig]) -> list[str]:
    """Write `KEY={}` as the removal of each entry that KEY has at this place of the line.

    Args:
        lines: Overrides as text.
        composed: Composes the configuration of some of them.

    Returns:
        The words as Hydra takes them.
    """
    words = parse(lines)
    for place, word in enumerate(words):
        if not empties(word):
            continue
        key = word.key_or_group
        later = [
            at > place and other.key_or_group.startswith(f"{key}.")
            for at, other in enumerate(words)
        ]
        others = [line for at, line in enumerate(lines) if at != place and not later[at]]
        entries = OmegaConf.select(composed(others), key)
        if isinstance(entries, DictConfig):
            removed = [f"~{key}.{name}" for name in map(str, entries)]
            return emptied([*lines[:place], *removed, *lines[place + 1 :]], composed)
    return list(lines)

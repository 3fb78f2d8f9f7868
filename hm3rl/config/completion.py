"""Ways to go on with an override that is being typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from hm3rl import registry
from hm3rl.config.explain import choices_of, config_groups
from hm3rl.config.parts import GROUPS, options_of
from hm3rl.config.schema import RunSettings
from hm3rl.config.values import CHOICES


def completions(incomplete: str, before: Sequence[str] = ()) -> list[str]:
    """Keys that begin like a word, or, after `=`, the values of its key.

    Args:
        incomplete: What was typed of the word.
        before: The words before it; those that choose a part say which options there are.

    Returns:
        Whole words; keys end in `.` where more must follow, or in `=`.
    """
    key, equals, begun = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values(key, before) if value.startswith(begun)]
    above, dot, _ = incomplete.rpartition(".")
    found = [f"{name}=" for name in config_groups()] if not dot else []
    node = _node(above.split("."), before) if dot else RunSettings()
    if node is not None:
        names = ((one.name, getattr(node, one.name)) for one in fields(node))
        found += [
            f"{above}{dot}{name}{'.' if is_dataclass(value) or isinstance(value, dict) else '='}"
            for name, value in names
        ]
    return sorted({word for word in found if word.startswith(incomplete)})


def in_shell(incomplete: str, before: Sequence[str]) -> list[str]:
    """The same where `=` may divide words, as in bash, which then replaces the value alone."""
    words: list[str] = []
    for piece in (*before, incomplete):
        if words and (piece.startswith("=") or words[-1].endswith("=")):
            words[-1] += piece
        else:
            words.append(piece)
    found = completions(words[-1], words[:-1])
    return found if words[-1] == incomplete else [word.partition("=")[2] for word in found]


def _values(key: str, before: Sequence[str]) -> list[str]:
    if key in config_groups():
        return choices_of(key)
    above, dot, last = key.rpartition(".")
    node = _node(above.split("."), before) if dot else RunSettings()
    declared = [one for one in fields(node) if one.name == last] if node is not None else []
    if not declared:
        return []
    if choices := declared[0].metadata.get(CHOICES):
        return list(choices)
    return ["true", "false"] if isinstance(getattr(node, last), bool) else []


def _node(path: Sequence[str], before: Sequence[str]) -> Any | None:
    """The settings at a dotted place, with the parts that earlier words choose."""
    node: Any = RunSettings()
    if path[0] in GROUPS:
        chosen = dict(word.split("=", 1) for word in before if "=" in word).get(path[0])
        kind = GROUPS[path[0]]
        known = chosen if chosen in registry.names(kind) else getattr(node, path[0]).name
        node, path = options_of(kind, known), path[1:]
    for name in path:
        node = getattr(node, name, None) if is_dataclass(node) else None
    return node if is_dataclass(node) else None

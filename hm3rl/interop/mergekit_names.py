"""How mergekit files name models: a folder or hub id, perhaps with an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hm3rl.errors import InputError

RESERVED = ("base", "stem", "merged", "none")


class Names:
    """Gives every reference one name: the first is "base", the others are named like folders."""

    def __init__(self) -> None:
        self.references: dict[str, str] = {}

    def of(self, reference: Any) -> str:
        """The name of a reference, a new one at its first occurrence.

        Raises:
            InputError: It names no model, or one in a way that is not supported.
        """
        written = reference_text(reference)
        for name, known in self.references.items():
            if known == written:
                return name
        plain = re.sub(r"[^A-Za-z0-9_.\-]", "_", written.rstrip("/").rsplit("/", 1)[-1])
        plain = plain if re.match(r"[A-Za-z0-9_]", plain) else f"m{plain}"
        name, number = plain if self.references else "base", 2
        while name in self.references or (name in RESERVED and self.references):
            name, number = f"{plain}-{number}", number + 1
        self.references[name] = written
        return name


def reference_text(reference: Any) -> str:
    """A reference as mergekit writes it: MODEL, or MODEL+ADAPTER.

    Args:
        reference: That text, or a mapping: `{model: M, lora: A}`, whose two are texts or have a
            `path`.

    Raises:
        InputError: It names no model, or has another key.
    """
    if isinstance(reference, Mapping):
        model, adapter = (_path(reference, key) for key in ("model", "lora"))
        rest = {k for k, v in reference.items() if k not in ("model", "lora") and v is not None}
        if model is None and set(reference) & {"path"}:
            model = _path({"model": {k: reference[k] for k in rest - {"lora"}}}, "model")
            rest = set()
        if rest:
            raise InputError(
                f"the model {dict(reference)} has {', '.join(sorted(map(str, rest)))}",
                "write {model: {path: FOLDER}, lora: {path: FOLDER}}, or just the folder",
            )
        reference = model and (model if adapter is None else f"{model}+{adapter}")
    if not isinstance(reference, str) or not reference:
        raise InputError(f"{reference!r} names no model", "give a folder or a hub id")
    return reference


def _path(reference: Mapping[str, Any], key: str) -> str | None:
    """The text of one part of a reference."""
    given = reference.get(key)
    if not isinstance(given, Mapping):
        return None if given is None else reference_text(given)
    rest = {name: value for name, value in given.items() if name != "path" and value is not None}
    if rest:
        raise InputError(
            f"the model {dict(given)} has {', '.join(sorted(map(str, rest)))}",
            "download that revision, and name its folder",
        )
    return reference_text(given.get("path"))

"""Several mergekit configurations in one file: merges that take each other's results, by name.

As in mergekit-multi, every document but one has a `name`, by which others mean its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hm3rl.errors import InputError

NOT_MODELS = ("name", "merge_method", "chat_template", "dtype", "out_dtype")
"""Keys whose texts name no model."""


def in_order(documents: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Documents so that each comes after those it takes, and the one that no other takes is last.

    Raises:
        InputError: A name is given twice, documents take each other in a circle, or several are
            taken by none.
    """
    names = [document.get("name") for document in documents]
    for name in names:
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise InputError(f"name: {name!r}", "give each document a plain name")
        if names.count(name) > 1:
            raise InputError(
                f"several documents are called {name!r}"
                if name
                else "several documents have no name",
                "all but the last merge need a name of their own",
            )
    known = {str(name) for name in names if name is not None}
    taken = {id(document): _taken(document, known) for document in documents}
    last = [d for d in documents if not any(d.get("name") in found for found in taken.values())]
    if len(last) != 1:
        raise InputError(
            "the documents take each other in a circle"
            if not last
            else f"no document takes the results of {', '.join(str(d.get('name')) for d in last)}",
            "one document must take all others, directly or not; its result is what is written",
        )
    done: list[Mapping[str, Any]] = []
    made: set[str] = set()
    while len(done) < len(documents):
        ready = [d for d in documents if d not in done and taken[id(d)] <= made]
        if not ready:
            raise InputError("the documents take each other in a circle", "break it")
        done += ready
        made |= {str(document.get("name")) for document in ready}
    return [*(document for document in done if document is not last[0]), last[0]]


def with_folders(document: Mapping[str, Any], folders: Mapping[str, str]) -> dict[str, Any]:
    """A document that names the folders of results in place of their documents."""
    return {
        key: value if key in NOT_MODELS else _replaced(value, folders)
        for key, value in document.items()
        if key != "name"
    }


def _replaced(value: Any, folders: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _replaced(inner, folders) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, folders) for inner in value]
    if isinstance(value, str):
        model, plus, adapter = value.partition("+")
        return folders[model] + plus + adapter if model in folders else value
    return value


def _taken(document: Mapping[str, Any], names: set[str]) -> set[str]:
    """Names of the documents whose results a document takes."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)
        elif isinstance(value, str) and value.partition("+")[0] in names:
            found.add(value.partition("+")[0])

    look({key: value for key, value in document.items() if key not in NOT_MODELS})
    return found

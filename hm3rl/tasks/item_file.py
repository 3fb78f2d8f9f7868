"""Reading a user's file of items: one JSON object a line, or a CSV table, every bad line named."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeGuard

from hm3rl.errors import InputError

PACKAGED = "items:"
"""How the names of files begin that the package brings."""

FIELDS = frozenset({"prompt", "messages", "reference", "metric", "tests", "choices"})

JSON_CELLS = ("tests", "choices", "messages")
"""Fields that are JSON in the cells of a table, too."""


class ItemFile:
    """A user's file.

    Args:
        task: Name of its task, for messages.
        path: The file, or "items:FILE" for one that the package brings.
        fields: What the file calls `prompt`, `reference` and so on, where it has other names.
        chat: Whether prompts go through a chat template, so that they may be messages.

    Raises:
        InputError: There is no field that is given another name.
    """

    def __init__(
        self, task: str, path: str | Path, fields: Mapping[str, str] | None, chat: bool
    ) -> None:
        self.task, self.path = task, _file(path)
        self._fields, self._chat = dict(fields or {}), chat
        if unknown := sorted(set(self._fields) - FIELDS):
            raise InputError(
                f"tasks.{task}.fields names {', '.join(unknown)}",
                f"name what the file calls one of {', '.join(sorted(FIELDS))}",
            )

    def where(self, number: int) -> str:
        """A line, for messages."""
        return f"task {self.task!r}: {self.path}, line {number}"

    def read(self) -> list[tuple[int, dict[str, Any]]]:
        """Rows with the numbers of their lines: `prompt`, `reference`, and what else there is.

        Raises:
            InputError: The file cannot be read, or names the line that is bad.
        """
        try:
            text = self.path.read_text(encoding="utf-8-sig")  # with a byte-order mark or without
        except (OSError, ValueError) as error:  # not UTF-8, or a name that no file can have
            raise InputError(
                f"task {self.task!r}: {self.path} cannot be read ({error})",
                f"give a UTF-8 file with one JSON object a line: tasks.{self.task}.path=FILE",
            ) from error
        lines = self._table(text) if self.path.suffix == ".csv" else enumerate(text.split("\n"), 1)
        rows: list[tuple[int, dict[str, Any]]] = []
        for number, line in lines:
            if isinstance(line, str) and not line.strip():
                continue
            try:
                row = json.loads(line) if isinstance(line, str) else line
                # A lone half of a pair, as \ud83d, which JSON can write and no text can hold.
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{self.where(number)} has a lone surrogate ({error.reason})",
                    "write the character itself, or both halves of its pair",
                ) from None
            except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits
                raise InputError(
                    f"{self.where(number)} is not JSON ({error})",
                    'one object a line, for example {"prompt": "2+2=", "reference": "4"}',
                ) from None
            found = self._resolved(number, self._renamed(number, row))
            self._check(number, found)
            rows.append((number, found))
        return rows

    def _table(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of a CSV file with the lines that they end on; see `JSON_CELLS`."""
        reader = csv.DictReader(io.StringIO(text, newline=""))
        keys = [self._fields.get(name, name) for name in JSON_CELLS]
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{self.where(reader.line_num)} has not the {len(reader.fieldnames or ())} "
                    "cells of the first line",
                    "put texts with commas or new lines in double quotes",
                )
            found: dict[str, Any] = dict(row)
            for key in [key for key in keys if key in found]:
                cell = found.pop(key)
                if not cell:
                    continue
                try:
                    found[key] = json.loads(cell)
                except ValueError as error:
                    raise InputError(
                        f"{self.where(reader.line_num)}: {key} is not JSON ({error})",
                        'for example [["f(1)", "2"]], or ["yes", "no"]',
                    ) from None
            yield reader.line_num, found

    def _renamed(self, number: int, row: object) -> dict[str, Any]:
        """A line under the names used here; of other fields nothing is kept then."""
        if not isinstance(row, dict):
            raise InputError(
                f"{self.where(number)} is not a JSON object", "write {...} with prompt, reference"
            )
        if not self._fields:
            return row
        missing = [given for given in self._fields.values() if given not in row]
        if missing:
            raise InputError(
                f"{self.where(number)} has no field {missing[0]!r}",
                f"it has {', '.join(map(str, row))}: tasks.{self.task}.fields={{prompt: NAME, …}}",
            )
        theirs = {name: self._fields.get(name, name) for name in FIELDS}
        if "prompt" in self._fields:
            del theirs["messages"]
        elif "messages" in self._fields:
            del theirs["prompt"]
        return {name: row[given] for name, given in theirs.items() if given in row}

    def _resolved(self, number: int, row: dict[str, Any]) -> dict[str, Any]:
        """A line with prompt and reference of its own, in whatever form they are written."""
        row = dict(row)
        if "messages" in row:
            if "prompt" in row:
                raise InputError(
                    f"{self.where(number)} has both prompt and messages", "remove one of the two"
                )
            row["prompt"] = messages = row.pop("messages")
            if _is_chat(messages) and messages[-1]["role"] == "assistant":
                if "reference" in row:
                    raise InputError(
                        f"{self.where(number)} has a reference, and messages that end with the "
                        "assistant's",
                        "remove one of the two",
                    )
                row["prompt"], row["reference"] = messages[:-1], messages[-1]["content"]
        answer, choices = row.get("reference"), row.get("choices")
        plain = isinstance(answer, int | float) and not isinstance(answer, bool)
        if not is_texts(choices):
            return {**row, "reference": str(answer)} if plain else row  # as many files have them
        if isinstance(answer, str) and (answer in choices or not answer.isdecimal()):
            return row
        if answer is None or not (isinstance(answer, str) or plain):
            return row
        place = int(answer) if float(answer).is_integer() else -1
        found = {choices[place]} if 0 <= place < len(choices) else set()
        found |= {str(answer)} & set(choices)
        if len(found) != 1:
            raise InputError(
                f"{self.where(number)}: the reference {answer} is "
                + ("none of the choices" if not found else "the place of one choice, and another"),
                "write the right choice's own text, in quotes, or its place, counted from 0",
            )
        return {**row, "reference": found.pop()}

    def _check(self, number: int, row: dict[str, Any]) -> None:
        where = self.where(number)
        unknown = sorted(set(row) - FIELDS)
        if unknown:
            raise InputError(
                f"{where} has unknown fields: {', '.join(unknown)}",
                f"known are {', '.join(sorted(FIELDS))}",
            )
        prompt, reference = row.get("prompt"), row.get("reference")
        if not (isinstance(prompt, str) and prompt) and not _is_chat(prompt):
            raise InputError(
                f"{where}: prompt must be a text, or a list of messages with role and content",
                'for example "prompt": "2+2="',
            )
        if not isinstance(prompt, str) and not self._chat:
            raise InputError(
                f"{where}: a list of messages needs a chat template",
                f"set tasks.{self.task}.chat_template=true",
            )
        if not isinstance(reference, str) or not reference.strip():
            raise InputError(f"{where}: reference must be a text", 'for example "reference": "4"')
        if "tests" in row and not _is_tests(row["tests"]):
            raise InputError(
                f"{where}: tests must be a list of [expression, expected repr]",
                'for example "tests": [["f(1)", "2"]]',
            )


def _file(path: str | Path) -> Path:
    """Find a task's file; whether it exists is seen when it is read."""
    name = str(path)
    if not name.startswith(PACKAGED):
        return Path(path)
    # Wheels are unpacked on installation, so the resource is a real file that stays.
    with as_file(files("hm3rl.tasks") / "items" / name.removeprefix(PACKAGED)) as file:
        return Path(file)


def _is_chat(prompt: object) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in prompt
        )
    )


def is_texts(choices: object) -> TypeGuard[list[str]]:
    """Whether something is a list of texts that are not blank, two at least, none twice."""
    return (
        isinstance(choices, list)
        and len(choices) > 1
        and all(isinstance(choice, str) and choice.strip() for choice in choices)
        and len(set(choices)) == len(choices)
    )


def _is_tests(tests: object) -> bool:
    return (
        isinstance(tests, list)
        and bool(tests)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
            for pair in tests
        )
    )

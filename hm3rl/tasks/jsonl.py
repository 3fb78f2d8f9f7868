"""A task from the user's own file: one JSON object a line, `prompt`, `reference`, perhaps `tests`.

    {"prompt": "Translate to French: the cat", "reference": "le chat"}
    {"prompt": [{"role": "user", "content": "2+2?"}], "reference": "4", "metric": "exact_match"}
    {"prompt": "Write f(x) = x + 1", "reference": "def f(x): ...", "tests": [["f(1)", "2"]]}

Tests are read by `program_tests.read_test`: an expression and the `repr` of its value.

A `metric` in the lines, the same in all of them, goes before the one of the configuration. Prompt
and reference are tokenised apart and put one after the other: where a model expects a space between
them, one of the two has to hold it. Splits follow the hash of the prompt as written in the file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hm3rl.config.tasks import SplitSettings
from hm3rl.errors import InputError
from hm3rl.tasks.base import SPLITS, Item, ProgramRunner, Split, Task, split_of, version_of
from hm3rl.tasks.chat import render
from hm3rl.tasks.metrics import (
    METRICS,
    TEXT_METRICS,
    extract_program,
    last_number,
    same_number,
)
from hm3rl.tasks.program_tests import ProgramTest, read_test
from hm3rl.tasks.suite import MIN_ITEMS

PACKAGED = "items:"
"""How the names of files begin that the package brings."""

FIELDS = frozenset({"prompt", "reference", "metric", "tests"})


class JsonlTask(Task):
    """A task read from a JSONL file.

    Args:
        name: Name of the task.
        path: The file, or "items:FILE" for one that the package brings.
        metric: One of `METRICS`, for lines that do not say.
        max_new_tokens: Longest answer in tokens, the end token included.
        tokenizer: Its chat template is applied to every prompt; None leaves prompts as they are.
        runner: Executes programs; needed for `pass_at_1` only.
        limits: Most items by split; a split not named, or with 0, keeps all it has.
        shares: Percentages of the splits; None: those of items that nothing here was trained on.
        fields: What the file calls `prompt`, `reference` and so on, where it has other names.
        tolerance: Of the metric `number`.

    Raises:
        InputError: File, line (with its number) or metric is bad, or a split is too small.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        metric: str = "exact_match",
        max_new_tokens: int = 64,
        tokenizer: PreTrainedTokenizerBase | None = None,
        runner: ProgramRunner | None = None,
        limits: dict[Split, int] | None = None,
        shares: SplitSettings | None = None,
        fields: Mapping[str, str] | None = None,
        tolerance: float = 0.0,
    ) -> None:
        self.name = name
        self._fields = dict(fields or {})
        self._tolerance = tolerance
        if unknown := sorted(set(self._fields) - FIELDS):
            raise InputError(
                f"tasks.{name}.fields names {', '.join(unknown)}",
                f"name what the file calls one of {', '.join(sorted(FIELDS))}",
            )
        self._shares = shares or SplitSettings()
        self.max_new_tokens = max_new_tokens
        self._path = _file(path)
        self._tokenizer = tokenizer
        if tokenizer is not None and not tokenizer.chat_template:
            raise InputError(
                f"task {name!r} asks for a chat template, but the model's tokenizer has none",
                f"set tasks.{name}.chat_template=false and write prompts in the model's own format",
            )
        rows = self._read()
        self.metric = self._metric(rows, metric)
        self._unread = metric if metric != self.metric else ""
        self.exact_only = self.metric == "exact_match"
        self.judged_elsewhere = self.metric == "pass_at_1"
        self.version = "jsonl-1" + version_of(self._shares)
        if self.metric == "number" and tolerance:
            self.version += f"+tolerance {tolerance:g}"
        self._tests: list[ProgramTest] = []
        if self.metric == "pass_at_1":
            self.runner = runner
            self._tests = [test for number, row in rows for test in self._read_tests(number, row)]
            self.version += "" if runner is None else runner.limits
            if any(test.form == "plain" for test in self._tests):  # once compared by the program
                self.version += "+plain"
        self._items = self._split([self._item(number, row) for number, row in rows], limits or {})

    def items(self, split: Split) -> tuple[Item, ...]:
        """Return the items of a split in the order of the file."""
        return self._items[split]

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Score outputs with the task's metric."""
        if self.metric == "pass_at_1":
            if self.runner is None:
                raise RuntimeError(f"task {self.name!r} was built without a program runner")
            programs = [extract_program(output) for output in outputs]
            return self.runner.run(programs, [item.payload for item in items])
        if self.metric == "number":
            pairs = zip(items, outputs, strict=True)
            return [same_number(out, item.reference, self._tolerance) for item, out in pairs]
        measure = TEXT_METRICS[self.metric]
        return [measure(out, item.reference) for item, out in zip(items, outputs, strict=True)]

    def notes(self) -> dict[str, str]:
        """What locks programs up and how many of their tests can be faked; whose metric counts."""
        notes = super().notes()
        if self._unread:
            notes["metric"] = f"{self.metric}, as its lines say, not {self._unread}"
        if fakeable := sum(test.fakeable for test in self._tests):
            notes["tests"] = (
                f"{fakeable} of {len(self._tests)} compare inside the program, which can fake "
                'them: write [EXPR, its repr], or ["EXPR == LITERAL", "True"]'
            )
        return notes

    def _where(self, number: int) -> str:
        return f"task {self.name!r}: {self._path}, line {number}"

    def _read(self) -> list[tuple[int, dict[str, Any]]]:
        try:
            text = self._path.read_text(encoding="utf-8-sig")  # with a byte-order mark or without
        except (OSError, ValueError) as error:  # not UTF-8, or a name that no file can have
            raise InputError(
                f"task {self.name!r}: {self._path} cannot be read ({error})",
                f"give a UTF-8 file with one JSON object a line: tasks.{self.name}.path=FILE",
            ) from error
        lines = self._table(text) if self._path.suffix == ".csv" else enumerate(text.split("\n"), 1)
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
                    f"{self._where(number)} has a lone surrogate ({error.reason})",
                    "write the character itself, or both halves of its pair",
                ) from None
            except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits
                raise InputError(
                    f"{self._where(number)} is not JSON ({error})",
                    'one object a line, for example {"prompt": "2+2=", "reference": "4"}',
                ) from None
            found = self._renamed(number, row)
            self._check(number, found)
            rows.append((number, found))
        return rows

    def _table(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows of a CSV file with the lines that they end on; `tests` is JSON there, too."""
        reader = csv.DictReader(io.StringIO(text, newline=""))
        key = self._fields.get("tests", "tests")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{self._where(reader.line_num)} has not the {len(reader.fieldnames or ())} "
                    "cells of the first line",
                    "put texts with commas or new lines in double quotes",
                )
            found: dict[str, Any] = dict(row)
            if found.get(key):
                try:
                    found[key] = json.loads(found[key])
                except ValueError as error:
                    raise InputError(
                        f"{self._where(reader.line_num)}: {key} is not JSON ({error})",
                        'for example [["f(1)", "2"]]',
                    ) from None
            yield reader.line_num, found

    def _renamed(self, number: int, row: object) -> dict[str, Any]:
        """A line under the names used here; of other fields nothing is kept then."""
        if not isinstance(row, dict):
            raise InputError(
                f"{self._where(number)} is not a JSON object", "write {...} with prompt, reference"
            )
        answer = row.get(key := self._fields.get("reference", "reference"))
        if isinstance(answer, int | float) and not isinstance(answer, bool):
            row = {**row, key: str(answer)}  # as many files have them
        if not self._fields:
            return row
        missing = [given for given in self._fields.values() if given not in row]
        if missing:
            raise InputError(
                f"{self._where(number)} has no field {missing[0]!r}",
                f"it has {', '.join(map(str, row))}: tasks.{self.name}.fields={{prompt: NAME, …}}",
            )
        theirs = {name: self._fields.get(name, name) for name in FIELDS}
        return {name: row[given] for name, given in theirs.items() if given in row}

    def _check(self, number: int, row: dict[str, Any]) -> None:
        where = self._where(number)
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
        if not isinstance(prompt, str) and self._tokenizer is None:
            raise InputError(
                f"{where}: a list of messages needs a chat template",
                f"set tasks.{self.name}.chat_template=true",
            )
        if not isinstance(reference, str) or not reference.strip():
            raise InputError(f"{where}: reference must be a text", 'for example "reference": "4"')
        if "tests" in row and not _is_tests(row["tests"]):
            raise InputError(
                f"{where}: tests must be a list of [expression, expected repr]",
                'for example "tests": [["f(1)", "2"]]',
            )

    def _read_tests(self, number: int, row: dict[str, Any]) -> list[ProgramTest]:
        try:
            return [read_test(expression, expected) for expression, expected in row["tests"]]
        except InputError as error:
            raise InputError(f"{self._where(number)}: {error.what}", error.remedy) from None

    def _metric(self, rows: list[tuple[int, dict[str, Any]]], metric: str) -> str:
        named = {row.get("metric", metric): number for number, row in reversed(rows)}
        if len(named) > 1:
            (one, first), (other, second) = sorted(named.items(), key=lambda entry: entry[1])[:2]
            raise InputError(
                f"{self._where(second)}: metric {other!r}, but line {first} has {one!r}",
                "a task has one metric; put the other lines into a task of their own",
            )
        metric = next(iter(named), metric)
        if metric not in METRICS:
            raise InputError(
                f"task {self.name!r}: unknown metric {metric!r}", f"one of {', '.join(METRICS)}"
            )
        for number, row in rows:
            self._check_reference(number, row["reference"], metric)
            if metric == "pass_at_1" and not row.get("tests"):
                raise InputError(
                    f"{self._where(number)}: pass_at_1 needs tests",
                    'for example "tests": [["f(1)", "2"]]',
                )
        return metric

    def _check_reference(self, number: int, reference: str, metric: str) -> None:
        """Refuse a reference that a metric can make nothing of."""
        if metric == "number" and last_number(reference) is None:
            raise InputError(
                f"{self._where(number)}: the reference {reference!r} holds no number",
                "write one, or use another metric",
            )
        if metric == "regex":
            try:
                re.compile(reference)
            except re.error as error:
                raise InputError(
                    f"{self._where(number)}: the reference is no regular expression ({error})",
                    "mend it, or use the metric contains for plain text",
                ) from None

    def _item(self, number: int, row: dict[str, Any]) -> tuple[Split, int, Item]:
        raw = row["prompt"]
        written = raw if isinstance(raw, str) else json.dumps(raw, sort_keys=True)
        prompt = written
        if self._tokenizer is not None:
            messages = [{"role": "user", "content": raw}] if isinstance(raw, str) else raw
            instead = f"set tasks.{self.name}.chat_template=false"
            prompt = render(self._tokenizer, messages, self._where(number), instead)
        payload = tuple((str(a), str(b)) for a, b in row.get("tests", ()))
        return (
            split_of(self.name, written, self._shares),
            number,
            Item(self.name, prompt, row["reference"], payload),
        )

    def _split(
        self, found: list[tuple[Split, int, Item]], limits: dict[Split, int]
    ) -> dict[Split, tuple[Item, ...]]:
        lines: dict[str, int] = {}
        for _, number, item in found:
            if item.prompt in lines:
                raise InputError(
                    f"{self._where(number)} repeats the prompt of line {lines[item.prompt]}",
                    "remove one of the two",
                )
            lines[item.prompt] = number
        splits: dict[Split, tuple[Item, ...]] = {}
        for split in SPLITS:
            members = tuple(item for s, _, item in found if s == split)
            splits[split] = members[: limits.get(split) or None]
            if split != "train" and len(splits[split]) < MIN_ITEMS:
                raise InputError(
                    f"task {self.name!r}: only {len(splits[split])} of the {len(found)} items of "
                    f"{self._path} fall into the {split} split",
                    f"{self._shares.search} % of all prompts are for search and "
                    f"{self._shares.test} % for test, by their hash: give 100 lines or more",
                )
        return splits


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


def _is_tests(tests: object) -> bool:
    return (
        isinstance(tests, list)
        and bool(tests)
        and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
            for pair in tests
        )
    )

"""A task from the user's own file: one JSON object a line, `prompt`, `reference`, perhaps `tests`.

    {"prompt": "Translate to French: the cat", "reference": "le chat"}
    {"prompt": [{"role": "user", "content": "2+2?"}], "reference": "4", "metric": "exact_match"}
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    {"prompt": "Write f(x) = x + 1", "reference": "def f(x): ...", "tests": [["f(1)", "2"]]}
    {"prompt": "The cat", "choices": [" sat", " flew"], "reference": " sat"}

Tests are read by `program_tests.read_test`: an expression and the `repr` of its value.

A `metric` in the lines, the same in all of them, goes before the one of the configuration. Prompt
and reference (or choice) are tokenised apart and put one after the other: where a model expects a
space between them, one of the two has to hold it. Splits follow the hash of the prompt as written
in the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hm3rl import registry
from hm3rl.config.tasks import SplitSettings
from hm3rl.errors import InputError
from hm3rl.tasks.base import SPLITS, Item, ProgramRunner, Split, Task, split_of, version_of
from hm3rl.tasks.chat import render, require_template
from hm3rl.tasks.item_file import ItemFile, is_texts
from hm3rl.tasks.metrics import (
    extract_program,
    kind_of,
    last_number,
    same_number,
    version_of_metric,
)
from hm3rl.tasks.program_tests import ProgramTest, read_test
from hm3rl.tasks.suite import MIN_ITEMS


class JsonlTask(Task):
    """A task read from a JSONL file.

    Args:
        name: Name of the task.
        path: The file, or "items:FILE" for one that the package brings.
        metric: Name of a metric, for lines that do not say; empty: `exact_match`, or `choice` if
            the lines have choices.
        max_new_tokens: Longest answer in tokens, the end token included.
        tokenizer: Its chat template is applied to every prompt; None leaves prompts as they are.
        runner: Executes programs; needed for `pass_at_1` only.
        limits: Most items by split; a split not named, or with 0, keeps all it has.
        shares: Percentages of the splits; None: those of items that nothing here was trained on.
        fields: What the file calls `prompt`, `reference` and so on, where it has other names.
        tolerance: Of the metric `number`.
        also: Metrics that are reported beside it and decide nothing.

    Raises:
        InputError: File, line (with its number) or metric is bad, or a split is too small.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        metric: str = "",
        max_new_tokens: int = 64,
        tokenizer: PreTrainedTokenizerBase | None = None,
        runner: ProgramRunner | None = None,
        limits: dict[Split, int] | None = None,
        shares: SplitSettings | None = None,
        fields: Mapping[str, str] | None = None,
        tolerance: float = 0.0,
        also: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._tolerance = tolerance
        self._shares = shares or SplitSettings()
        self.max_new_tokens = max_new_tokens
        self._file = ItemFile(name, path, fields, chat=tokenizer is not None)
        self._tokenizer = tokenizer
        if tokenizer is not None:
            require_template(name, tokenizer)
        rows = self._file.read()
        with_choices = any("choices" in row for _, row in rows)
        metric = metric or ("choice" if with_choices else "exact_match")
        self.metric = self._metric(rows, metric)
        self._unread = metric if metric != self.metric else ""
        self._also = self._beside(rows, also)
        metrics = (self.metric, *self._also)
        self.exact_only = self.metric == "exact_match"
        self.chooses = kind_of(self.metric) == "choices"
        self.judged_elsewhere = "pass_at_1" in metrics
        self.version = "jsonl-1" + version_of(self._shares)
        if "number" in metrics and tolerance:
            self.version += f"+tolerance {tolerance:g}"
        self.version += "".join(map(version_of_metric, metrics))
        if self._also:
            self.version += f"+also {', '.join(self._also)}"
        self._tests: list[ProgramTest] = []
        if self.judged_elsewhere:
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
        return self._measured(self.metric, items, outputs)

    def secondary(self, items: Sequence[Item], outputs: Sequence[str]) -> dict[str, list[float]]:
        """The metrics that are reported beside it."""
        return {name: self._measured(name, items, outputs) for name in self._also}

    def choose(self, item: Item, likelihoods: Sequence[float]) -> dict[str, int]:
        """The choice by each metric."""
        names = (self.metric, *self._also)
        return {
            name: int(registry.find("metric", name).load()(item.choices, likelihoods))
            for name in names
        }

    def _measured(self, metric: str, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        if metric == "pass_at_1":
            if self.runner is None:
                raise RuntimeError(f"task {self.name!r} was built without a program runner")
            programs = [extract_program(output) for output in outputs]
            return self.runner.run(programs, [item.payload for item in items])
        if metric == "number":
            pairs = zip(items, outputs, strict=True)
            return [same_number(out, item.reference, self._tolerance) for item, out in pairs]
        measure = registry.find("metric", metric).load()
        pairs = zip(items, outputs, strict=True)
        return [float(measure(out, item.reference)) for item, out in pairs]

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

    def _read_tests(self, number: int, row: dict[str, Any]) -> list[ProgramTest]:
        try:
            return [read_test(expression, expected) for expression, expected in row["tests"]]
        except InputError as error:
            raise InputError(f"{self._file.where(number)}: {error.what}", error.remedy) from None

    def _metric(self, rows: list[tuple[int, dict[str, Any]]], metric: str) -> str:
        named = {row.get("metric", metric): number for number, row in reversed(rows)}
        if len(named) > 1:
            (one, first), (other, second) = sorted(named.items(), key=lambda entry: entry[1])[:2]
            raise InputError(
                f"{self._file.where(second)}: metric {other!r}, but line {first} has {one!r}",
                "a task has one metric; put the other lines into a task of their own",
            )
        metric = next(iter(named), metric)
        self._check_metric(rows, metric)
        return metric

    def _beside(self, rows: list[tuple[int, dict[str, Any]]], also: Sequence[str]) -> list[str]:
        """The metrics that are reported beside the task's own."""
        for place, metric in enumerate(also):
            if metric == self.metric or metric in also[:place]:
                raise InputError(
                    f"tasks.{self.name}.also names {metric}, which is there already", "remove it"
                )
            self._check_metric(rows, metric)
            if (kind_of(metric) == "choices") != (kind_of(self.metric) == "choices"):
                raise InputError(
                    f"task {self.name!r}: {self.metric} and {metric} together: one takes choices "
                    "by their likelihoods, for the other answers are generated",
                    "make two tasks of the file",
                )
        return list(also)

    def _check_metric(self, rows: list[tuple[int, dict[str, Any]]], metric: str) -> None:
        """Refuse an unknown metric, and lines that it can make nothing of."""
        if metric not in registry.names("metric"):
            raise InputError(
                f"task {self.name!r}: unknown metric {metric!r}",
                f"one of {', '.join(registry.names('metric'))}, or a plugin's: plugins=[FILE.py]",
            )
        for number, row in rows:
            self._check_reference(number, row["reference"], metric)
            if metric == "pass_at_1" and not row.get("tests"):
                raise InputError(
                    f"{self._file.where(number)}: pass_at_1 needs tests",
                    'for example "tests": [["f(1)", "2"]]',
                )
            if kind_of(metric) == "choices":
                self._check_choices(number, row, metric)

    def _check_choices(self, number: int, row: dict[str, Any], metric: str) -> None:
        choices = row.get("choices")
        if not is_texts(choices):
            raise InputError(
                f"{self._file.where(number)}: {metric} needs choices, a list of different texts",
                'for example "choices": [" sat", " flew"]',
            )
        if row["reference"] not in choices:
            raise InputError(
                f"{self._file.where(number)}: the reference {row['reference']!r} is none of the "
                "choices",
                "write the right choice's own text, spaces included, or its place, counted from 0",
            )

    def _check_reference(self, number: int, reference: str, metric: str) -> None:
        """Refuse a reference that a metric can make nothing of."""
        if metric == "number" and last_number(reference) is None:
            raise InputError(
                f"{self._file.where(number)}: the reference {reference!r} holds no number",
                "write one, or use another metric",
            )
        if metric == "regex":
            try:
                re.compile(reference)
            except re.error as error:
                raise InputError(
                    f"{self._file.where(number)}: the reference is no regular expression ({error})",
                    "mend it, or use the metric contains for plain text",
                ) from None

    def _item(self, number: int, row: dict[str, Any]) -> tuple[Split, int, Item]:
        raw = row["prompt"]
        written = raw if isinstance(raw, str) else json.dumps(raw, sort_keys=True)
        prompt = written
        if self._tokenizer is not None:
            messages = [{"role": "user", "content": raw}] if isinstance(raw, str) else raw
            instead = f"set tasks.{self.name}.chat_template=false"
            prompt = render(self._tokenizer, messages, self._file.where(number), instead)
        payload = tuple((str(a), str(b)) for a, b in row.get("tests", ()))
        choices = tuple(row["choices"]) if self.chooses else ()
        return (
            split_of(self.name, written, self._shares),
            number,
            Item(self.name, prompt, row["reference"], payload, choices),
        )

    def _split(
        self, found: list[tuple[Split, int, Item]], limits: dict[Split, int]
    ) -> dict[Split, tuple[Item, ...]]:
        lines: dict[tuple[str, tuple[str, ...]], int] = {}
        for _, number, item in found:
            asked = (item.prompt, item.choices)
            if asked in lines:
                raise InputError(
                    f"{self._file.where(number)} repeats the prompt of line {lines[asked]}",
                    "remove one of the two",
                )
            lines[asked] = number
        splits: dict[Split, tuple[Item, ...]] = {}
        for split in SPLITS:
            members = tuple(item for s, _, item in found if s == split)
            splits[split] = members[: limits.get(split) or None]
            if split != "train" and len(splits[split]) < MIN_ITEMS:
                raise InputError(
                    f"task {self.name!r}: only {len(splits[split])} of the {len(found)} items of "
                    f"{self._file.path} fall into the {split} split",
                    f"{self._shares.search} % of all prompts are for search and "
                    f"{self._shares.test} % for test, by their hash: give 100 lines or more",
                )
        return splits

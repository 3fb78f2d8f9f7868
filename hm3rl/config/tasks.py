"""Options of the kinds of task that ship: each task is a node `tasks.NAME`, with what it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hm3rl.config.values import choice, number
from hm3rl.errors import InputError


@dataclass
class TaskSettings:
    """What every task, that is every objective, has; a kind of one's own adds its options.

    Attributes:
        kind: `translation`, `math`, `code`, `sorting`, `reversal` or `sums` (the tiny zoo's own),
            `jsonl`, `lm_eval`, `reasoning_gym`, or a plugin's; `answer_length` and `path_length`
            are objectives to be minimised.
        role: `objective`, or `watch`: the search never sees it; the front, the experts and the base
            are scored on its test split, which tells what was forgotten.
    """

    kind: str = ""
    role: str = choice("objective", "watch")


@dataclass
class SizedTaskSettings(TaskSettings):
    """Tasks with items: the tiny zoo's.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 0 takes the task's own.
        search_items: Items of the search split that are used; 0 takes the task's own number.
        test_items: Items of the test split that are used; 0 takes the task's own number.
    """

    max_new_tokens: int = number(0, least=0)
    search_items: int = number(0, least=0)
    test_items: int = number(0, least=0)


@dataclass
class SplitSettings:
    """Shares of a task's items, in percent; together they are 100.

    Attributes:
        search: What the search decides by.
        test: What is scored once, of models that were chosen.
        train: What nobody scores: for what trains on the task's items. Alignments are fitted on
            these where there are any.
    """

    search: int = number(60, least=1, most=99)
    test: int = number(40, least=1, most=99)
    train: int = number(0, least=0, most=98)

    def __str__(self) -> str:
        """As a version says it, `60/40`; the rest is for training."""
        return f"{self.search}/{self.test}"


ZOO_SPLIT = SplitSettings(search=15, test=35, train=50)
"""Shares of the tasks that experts of ours were trained on, and of all tasks of older runs."""


def check_split(task: str, split: SplitSettings) -> None:
    """Refuse shares that are not all of a task's items.

    Raises:
        InputError: They do not sum to 100.
    """
    total = split.search + split.test + split.train
    if total != 100:
        raise InputError(
            f"tasks.{task}.split has search {split.search}, test {split.test} and train "
            f"{split.train}: {total} percent",
            f"make it 100, for example tasks.{task}.split={{search: 60, test: 40, train: 0}}",
        )


@dataclass
class OwnTaskSettings(SizedTaskSettings):
    """Items of one's own, which no model here was trained on.

    Attributes:
        split: How many percent of the items are for the search, for the test and for training.
    """

    split: SplitSettings = field(default_factory=SplitSettings)


@dataclass
class JsonlSettings(OwnTaskSettings):
    """Items of one's own: `jsonl`.

    Attributes:
        path: File with one JSON object a line (prompt, reference, optionally tests), or a .csv file
            with these columns; `items:FILE` is one that the package brings.
        fields: What the file calls them, for example `{prompt: question, reference: answer}`; other
            fields of its lines are then passed over.
        metric: `exact_match` (if empty), `contains`, `number` (the last one of the answer), `regex`
            (the reference is one), `chrf`, `pass_at_1`, `choice` (if empty, of items with choices:
            the likeliest one), `choice_norm` (by their length), or a plugin's.
        also: Metrics that are shown beside it, of the test split, and decide nothing.
        tolerance: Largest difference of two numbers that are the same to the metric `number`.
        chat_template: Whether prompts go through the tokenizer's chat template.
    """

    path: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    metric: str = ""
    also: list[str] = field(default_factory=list)
    tolerance: float = number(0.0, least=0)
    chat_template: bool = False


@dataclass
class HarnessSettings(OwnTaskSettings):
    """A task of the lm-evaluation-harness: `lm_eval`.

    Attributes:
        lm_eval: Its name, or the path of a YAML task.
        metric: A metric of the task, or `metric,filter`; if empty, its first.
        also: Metrics that are shown beside it, of the test split, and decide nothing.
    """

    lm_eval: str = ""
    metric: str = ""
    also: list[str] = field(default_factory=list)


@dataclass
class ReasoningGymSettings(OwnTaskSettings):
    """Puzzles of reasoning-gym: `reasoning_gym`.

    Attributes:
        dataset: Name of the data set, such as `leg_counting`.
        options: Its own options, for example `{max_animals: 5}`.
        seed: Of its items.
        size: How many are made.
        chat_template: Whether questions go through the tokenizer's chat template.
    """

    dataset: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    size: int = number(500, least=4)
    chat_template: bool = False


@dataclass
class AnswerLengthSettings(TaskSettings):
    """Tokens of another task's answers, to be minimised: `answer_length`.

    Attributes:
        of: Name of that task.
    """

    of: str = ""


@dataclass
class PathLengthSettings(TaskSettings):
    """Layers of the path, to be minimised: `path_length`.

    Attributes:
        worst: Layers at which a path is worth nothing; 0: twice the sources'.
    """

    worst: float = number(0.0, least=0)

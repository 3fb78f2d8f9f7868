"""Options of the kinds of task that ship: each task is a node `tasks.NAME`, with what it reads."""

from __future__ import annotations

from dataclasses import dataclass

from hm3rl.config.values import number


@dataclass
class TaskSettings:
    """What every task, that is every objective, has; a kind of one's own adds its options.

    Attributes:
        kind: `translation`, `math`, `code`, `sorting` or `reversal` (the tiny zoo's own), `jsonl`,
            `lm_eval`, `path_length` (no task, but an objective to be minimised), or a plugin's.
    """

    kind: str = ""


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
class JsonlSettings(SizedTaskSettings):
    """Items of one's own: `jsonl`.

    Attributes:
        path: File with one JSON object a line (prompt, reference, optionally tests);
            `items:FILE` is one that the package brings.
        metric: `exact_match` (if empty), `chrf` or `pass_at_1`.
        chat_template: Whether prompts go through the tokenizer's chat template.
    """

    path: str = ""
    metric: str = ""
    chat_template: bool = False


@dataclass
class HarnessSettings(SizedTaskSettings):
    """A task of the lm-evaluation-harness: `lm_eval`.

    Attributes:
        lm_eval: Its name, or the path of a YAML task.
        metric: A metric of the task, or `metric,filter`; if empty, its first.
    """

    lm_eval: str = ""
    metric: str = ""


@dataclass
class PathLengthSettings(TaskSettings):
    """Layers of the path, to be minimised: `path_length`.

    Attributes:
        worst: Layers at which a path is worth nothing; 0: twice the sources'.
    """

    worst: float = number(0.0, least=0)

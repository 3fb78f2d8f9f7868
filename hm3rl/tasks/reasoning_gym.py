"""A task of reasoning-gym: puzzles that a program makes and judges, without end and without a file.

Items come from `reasoning_gym.create_dataset(NAME, seed=…, size=…)`: a question, an answer and
metadata, by which its own `score_answer` judges what a model says, in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from types import CodeType, FunctionType, ModuleType
from typing import Any

from transformers import PreTrainedTokenizerBase

from hm3rl.config.tasks import ReasoningGymSettings, SplitSettings
from hm3rl.errors import InputError
from hm3rl.tasks.base import SPLITS, Item, Split, Task, split_of, version_of
from hm3rl.tasks.build import TaskTools
from hm3rl.tasks.chat import render, require_template

PACKAGE = "reasoning_gym"
MAX_NEW_TOKENS = 256
"""Answers come with their working."""
COMPOSITE = "composite"
"""Its items are of whatever data sets its options name."""
EXECUTING = frozenset({"eval", "exec", "compile", "__import__"})
"""Built-in functions that run what they are given."""


class ReasoningGymTask(Task):
    """A data set of reasoning-gym.

    Args:
        name: Name of the task.
        dataset: Name of the data set.
        options: Its own options.
        seed: Of its items.
        size: Number of items; the same question twice counts once.
        max_new_tokens: Longest answer in tokens.
        tokenizer: Its chat template is applied to every question; None leaves them as they are.
        limits: Most items by split; a split not named, or with 0, keeps all it has.
        shares: Percentages of the splits; None: those of items that nothing here was trained on.

    Raises:
        InputError: There is no such data set or option, it has no answers, or would run what a
            model wrote.
    """

    metric = "score"
    exact_only = False

    def __init__(
        self,
        name: str,
        dataset: str,
        options: dict[str, Any] | None = None,
        seed: int = 0,
        size: int = 500,
        max_new_tokens: int = MAX_NEW_TOKENS,
        tokenizer: PreTrainedTokenizerBase | None = None,
        limits: dict[Split, int] | None = None,
        shares: SplitSettings | None = None,
    ) -> None:
        self.name, self.max_new_tokens = name, max_new_tokens
        self._data = _create(name, dataset, {**(options or {}), "seed": seed, "size": size})
        if executes(type(self._data)):
            raise InputError(
                f"task {name!r}: {dataset} reads answers with eval or sympy, which runs what a "
                "model wrote, outside the sandbox",
                "choose another data set, or write its items to a JSONL file",
            )
        shares = shares or SplitSettings()
        asked = json.dumps(options or {}, sort_keys=True)
        self.version = f"reasoning-gym-1 {metadata.version(PACKAGE)} {dataset} {asked}"
        self.version += version_of(shares)
        self._entries: dict[str, Any] = {}
        found: dict[Split, list[Item]] = {split: [] for split in SPLITS}
        for number in range(size):
            entry = self._data[number]
            question, answer = entry["question"], entry["answer"]
            if not isinstance(answer, str) or not answer.strip():
                raise InputError(
                    f"task {name!r}: {dataset} has items without an answer to hold others against",
                    "choose another data set",
                )
            prompt = question
            if tokenizer is not None:
                require_template(name, tokenizer)
                messages = [{"role": "user", "content": question}]
                instead = f"set tasks.{name}.chat_template=false"
                prompt = render(tokenizer, messages, f"{dataset}, item {number}", instead)
            if prompt in self._entries:
                continue
            self._entries[prompt] = entry
            facts = json.dumps(entry["metadata"], default=str, sort_keys=True)
            digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
            item = Item(name, prompt, answer, (("metadata", digest),))
            found[split_of(name, question, shares)].append(item)
        self._items = {s: tuple(some)[: (limits or {}).get(s) or None] for s, some in found.items()}

    def items(self, split: Split) -> tuple[Item, ...]:
        """Return the items of a split in the order of the data set."""
        return self._items[split]

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Scores as the data set gives them."""
        pairs = zip(items, outputs, strict=True)
        return [
            float(self._data.score_answer(said, entry=self._entries[item.prompt]))
            for item, said in pairs
        ]


def _create(task: str, dataset: str, options: dict[str, Any]) -> Any:
    """Make a data set.

    Raises:
        InputError: It says what is wrong.
    """
    import reasoning_gym  # named in the registry among what the task needs

    if not dataset:
        raise InputError(
            f"task {task!r} does not say which data set of reasoning-gym it is",
            f"give tasks.{task}.dataset=NAME, for example leg_counting",
        )
    if dataset == COMPOSITE:
        raise InputError(
            f"task {task!r}: {COMPOSITE} is several data sets of reasoning-gym in one",
            "make a task of each",
        )
    try:
        return reasoning_gym.create_dataset(dataset, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"task {task!r}: reasoning-gym cannot make {dataset!r} ({error})",
            f"see its gallery for names, and options for tasks.{task}.options={{KEY: VALUE}}",
        ) from error


def executes(dataset: type) -> bool:
    """Whether judging an answer may run it: by the built-in functions, or sympy, whose parser does.

    Follows functions of reasoning-gym that `score_answer` names, as far as they can be found.
    """
    judge: Any = dataset
    waiting: list[Any] = [judge.score_answer]
    seen: set[Any] = set()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        for name in _names(function.__code__):
            meant = function.__globals__.get(name, getattr(dataset, name, None))
            module = meant.__name__ if isinstance(meant, ModuleType) else ""
            module = module or str(getattr(meant, "__module__", ""))
            if module.split(".")[0] == "sympy" or (meant is None and name in EXECUTING):
                return True
            if module.split(".")[0] == PACKAGE:
                waiting += vars(meant).values() if isinstance(meant, type) else [meant]
    return False


def _names(code: CodeType) -> set[str]:
    """Names of globals and attributes in a function, those inside it included."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def reasoning_gym(name: str, settings: ReasoningGymSettings, tools: TaskTools) -> Task:
    """A data set of reasoning-gym."""
    return ReasoningGymTask(
        name,
        settings.dataset,
        options=settings.options,
        seed=settings.seed,
        size=settings.size,
        max_new_tokens=settings.max_new_tokens or MAX_NEW_TOKENS,
        tokenizer=tools.tokenizer if settings.chat_template else None,
        limits={"search": settings.search_items, "test": settings.test_items},
        shares=settings.split,
    )

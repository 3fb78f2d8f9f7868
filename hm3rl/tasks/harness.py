"""A task of the lm-evaluation-harness, by its name or from a YAML file of one's own.

Here its documents become items, with prompts (few-shot examples included) and requests built once,
so that every candidate is asked the same. `hm3rl.evaluation.harness` runs the requests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hm3rl.config.tasks import SplitSettings
from hm3rl.errors import InputError
from hm3rl.tasks.base import SPLITS, Item, Split, Task, split_of, version_of

FEW_SHOT_SEED = 1234
"""The harness's own default."""
MAX_NEW_TOKENS = 256
"""The harness's own default for generation."""
KINDS = ("generate_until", "multiple_choice", "loglikelihood")
JUDGING = ("metric_list", "filter_list", "process_results")
"""Entries of a task's configuration that decide what a response scores."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep the harness from logging every step; errors still come through."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class HarnessTask(Task):
    """A task of the lm-evaluation-harness.

    The documents it evaluates on are divided into splits by the hash of the prompt, like all items
    here. The score is one of its metrics, per document.

    Args:
        name: Name of the objective.
        spec: Name of the task in the harness, or path of a YAML file.
        tokenizer: The models' tokenizer.
        metric: Metric, or "metric,filter"; empty: the task's first of its first filter.
        max_new_tokens: Longest generation in tokens; 0: what the task says.
        limits: Most items by split; a split not named, or with 0, keeps all it has.
        shares: Percentages of the splits; None: those of items that nothing here was trained on.
        also: Metrics that are reported beside it, written alike.

    Raises:
        InputError: The harness is missing, the task cannot be loaded, or its score is no number in
            [0, 1] per document.
    """

    exact_only = False

    def __init__(
        self,
        name: str,
        spec: str,
        tokenizer: PreTrainedTokenizerBase,
        metric: str = "",
        max_new_tokens: int = 0,
        limits: dict[Split, int] | None = None,
        shares: SplitSettings | None = None,
        also: Sequence[str] = (),
    ) -> None:
        self.name = name
        with quiet_harness():
            self._task = _load(name, spec)
            self._refuse_unknown_kinds(spec)
            self._instances: dict[str, list[Any]] = {}
            self._task.set_fewshot_seed(FEW_SHOT_SEED)
            found = [self._item(doc, place) for place, doc in enumerate(self._task.eval_docs)]
        self.metric, self._filter = self._choose(metric)
        self._also = {wanted: self._choose(wanted) for wanted in also}
        self._check_metric(found[0])
        higher = self._task.higher_is_better().get(self.metric, True)
        self.direction = "maximise" if higher else "minimise"
        self.max_new_tokens = self._longest(found, tokenizer, max_new_tokens)
        self.version = f"lm-eval-2 {metadata.version('lm_eval')} {self._judging()}"
        shares = shares or SplitSettings()
        self.version += version_of(shares)
        if self._also:
            self.version += f"+also {', '.join(self._also)}"
        self._items: dict[Split, tuple[Item, ...]] = {}
        for split in SPLITS:
            members = [item for item in found if split_of(name, item.prompt, shares) == split]
            self._items[split] = tuple(members)[: (limits or {}).get(split) or None]

    def items(self, split: Split) -> tuple[Item, ...]:
        """Return the items of a split in the order of the documents."""
        return self._items[split]

    def score(self, items: Sequence[Item], outputs: Sequence[str]) -> list[float]:
        """Not possible: the harness scores answers to its own requests.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"task {self.name!r} is scored by the harness, not from texts")

    def requests(self, items: Sequence[Item]) -> list[list[Any]]:
        """The harness's requests for each item, without responses."""
        return [
            [
                dataclasses.replace(instance, resps=[], filtered_resps={})
                for instance in self._instances[item.payload[0][1]]
            ]
            for item in items
        ]

    def judge(self, answered: Sequence[Sequence[Any]]) -> list[float]:
        """Score requests whose responses are in.

        Args:
            answered: Requests of each item, as `requests` gave them.

        Returns:
            One score per item, as the harness reports it.
        """
        self._task._instances = [instance for requests in answered for instance in requests]
        self._task.apply_filters()
        return [self._judged(requests, self.metric, self._filter) for requests in answered]

    def judge_further(self, answered: Sequence[Sequence[Any]]) -> dict[str, list[float]]:
        """Score what `judge` has scored by the metrics that are reported beside it."""
        return {
            wanted: [self._judged(requests, metric, chosen) for requests in answered]
            for wanted, (metric, chosen) in self._also.items()
        }

    def _judged(self, requests: Sequence[Any], metric: str, chosen: str) -> float:
        """One document's score by a metric of a filter, as the harness reports it."""
        responses = [request.filtered_resps[chosen] for request in requests]
        return float(self._task.process_results(requests[0].doc, responses)[metric])

    def _refuse_unknown_kinds(self, spec: str) -> None:
        task = self._task
        if task.OUTPUT_TYPE not in KINDS or getattr(task, "MULTIMODAL", False):
            raise InputError(
                f"task {self.name!r}: {spec} asks for {task.OUTPUT_TYPE} or more than text",
                f"choose a task of text with output_type {', '.join(KINDS)}",
            )
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(
                f"task {self.name!r}: {spec} runs generated programs without a sandbox",
                "use a JSONL task with metric pass_at_1, which has one",
            )

    def _item(self, doc: dict[str, Any], place: int) -> Item:
        """Build the requests of a document; the reference is the right answer as a continuation."""
        task = self._task
        context = task.fewshot_context(
            doc, num_fewshot=task.config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc)
        )
        built = task.construct_requests(
            doc=doc, ctx=context, metadata=(task.config.task, place, task.config.repeats)
        )
        requests = built if isinstance(built, list) else [built]
        target = task.doc_to_target(doc)
        first = target[0] if isinstance(target, list) else target
        if task.OUTPUT_TYPE == "multiple_choice":
            right = task.doc_to_text(doc) if task.multiple_input else first
            choices = task.doc_to_choice(doc)
            prompt, reference = requests[
                choices.index(right) if isinstance(right, str) else int(right)
            ].arguments[:2]
        elif task.OUTPUT_TYPE == "loglikelihood":
            prompt, reference = requests[0].arguments[:2]
        else:
            prompt, reference = context, f"{task.config.target_delimiter}{first}"
        everything = json.dumps([doc, [r.arguments for r in requests]], default=str, sort_keys=True)
        digest = hashlib.sha256(everything.encode()).hexdigest()
        self._instances[digest] = requests
        return Item(self.name, prompt, reference, (("document", digest),))

    def _choose(self, wanted: str) -> tuple[str, str]:
        metrics, filters = list(self._task._metric_fn_list), [f.name for f in self._task._filters]
        metric, _, chosen = wanted.partition(",")
        metric, chosen = metric or metrics[0], chosen or filters[0]
        if metric not in metrics or chosen not in filters:
            raise InputError(
                f"task {self.name!r} has no metric {wanted!r}",
                f"one of {', '.join(f'{m},{f}' for m in metrics for f in filters)}",
            )
        return metric, chosen

    def _judging(self) -> str:
        """Hash what turns responses into scores, 16 hex digits; the items say what is asked."""
        written = self._task.config.to_dict()  # functions as their source
        rules = [written.get(entry) for entry in JUDGING]
        text = json.dumps([self._task.VERSION, self._filter, rules], default=str, sort_keys=True)
        # Of a function without source its address would remain, another one in each process.
        return hashlib.sha256(_ADDRESS.sub("", text).encode()).hexdigest()[:16]

    def _check_metric(self, item: Item) -> None:
        """Score a made-up answer, so that a metric that is no number fails before long work."""
        answered = self.requests([item])
        for request in answered[0]:
            answer = "" if request.request_type == "generate_until" else (-1.0, False)
            request.resps = [answer] * (request.repeats or 1)
        try:
            score = self.judge(answered)[0]
            self.judge_further(answered)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"task {self.name!r}: metric {self.metric!r} gives no number per document "
                f"({error!r})",
                "choose one that is a mean over documents, such as acc or exact_match",
            ) from error
        if not 0.0 <= score <= 1.0:
            raise InputError(
                f"task {self.name!r}: metric {self.metric!r} gives {score:g}, outside [0, 1]",
                "choose one that stays within, such as acc or exact_match",
            )

    def _longest(
        self, found: Sequence[Item], tokenizer: PreTrainedTokenizerBase, wanted: int
    ) -> int:
        """Decoding limit: as asked, as the task says, or as long as the longest reference.

        Raises:
            InputError: One is asked for, and nothing is decoded.
        """
        if self._task.OUTPUT_TYPE != "generate_until":
            if wanted:
                raise InputError(
                    f"tasks.{self.name}.max_new_tokens={wanted}: {self._task.OUTPUT_TYPE} generates"
                    " nothing",
                    "drop it",
                )
            texts = [item.reference for item in found]
            encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
            return 1 + max(map(len, encoded))
        for requests in self._instances.values():
            settings = requests[0].arguments[1]
            settings["max_gen_toks"] = wanted or settings.get("max_gen_toks", MAX_NEW_TOKENS)
        return int(settings["max_gen_toks"])


def _load(name: str, spec: str) -> Any:
    """Load one task of the harness."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f"task {name!r} needs lm-eval, which is not installed ({error})",
            "pip install 'hm3rl[lm-eval]'",
        ) from error
    if not spec:
        raise InputError(
            f"task {name!r} does not say which task of lm-eval it is",
            f"give tasks.{name}.lm_eval=NAME, or the path of a YAML file",
        )
    local = spec.endswith((".yaml", ".yml"))
    if local and not Path(spec).is_file():
        raise InputError(f"task {name!r}: no such file: {spec}", "give the path of a YAML task")
    try:
        loaded = TaskManager(include_defaults=not local).load(spec)["tasks"]
    except Exception as error:  # the harness raises whatever a YAML file or data set leads to
        raise InputError(
            f"task {name!r}: lm-eval cannot load {spec!r} ({type(error).__name__}: {error})",
            "see `lm-eval ls tasks` for its tasks; without network, a YAML file with local data",
        ) from error
    if len(loaded) != 1:
        raise InputError(
            f"task {name!r}: {spec} stands for {len(loaded)} tasks of lm-eval",
            f"name one of them: {', '.join(list(loaded)[:8])}",
        )
    return next(iter(loaded.values()))

"""What models answer, side by side: a table for each task, one row for each item.

    python -m experiments.smollm2.generations smollm2:base smollm2:translation smollm2:math \
        smollm2:code exported --overrides experiment=smollm2 --to results/generations.md

Models are named as everywhere (folders, adapters, NAME:MEMBER); tasks, precision and device are the
configuration's. Items are the first of the split. An answer is decoded as the scorer decodes it;
the column before it says its score.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hm3rl import api
from hm3rl.config.schema import RunSettings
from hm3rl.evaluation.texts import Answered, Answerer
from hm3rl.models.loading import is_adapter
from hm3rl.models.pool import ModelPool
from hm3rl.models.zoo import resolve_source
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.members import MemberSet
from hm3rl.tasks.base import Split
from hm3rl.tasks.build import build_tasks


def answers(model: str, chosen: RunSettings, split: Split, count: int) -> dict[str, list[Answered]]:
    """Let a model answer the first items of each task.

    Args:
        model: Folder or name; an adapter is put into the configuration's base.
        chosen: Tasks, base, precision and device.
        split: Split of the items.
        count: Items of each task.

    Returns:
        The answers by task.

    Raises:
        InputError: The model or a task is missing or unusable.
    """
    adapters = chosen.pool.smollm2_adapters
    base = chosen.pool.base if is_adapter(resolve_source(model, adapters)) else model
    pool = ModelPool.load(
        base,
        {"model": model},
        api.precision(chosen.pool.dtype),
        chosen.pool.device,
        adapters=adapters,
    )
    members = MemberSet(pool)
    tasks = build_tasks(chosen.tasks, chosen.evaluation, pool.tokenizer)
    answerer = Answerer(members, tasks, split, count, chosen.evaluation.batch_size)
    return answerer.answers(Candidate.whole("model", members.num_layers("model")))


def table(task: str, by_model: dict[str, list[Answered]]) -> str:
    """One task's table in Markdown.

    Args:
        task: Its name.
        by_model: Answers to the same items, by the model's name.
    """
    names = list(by_model)
    lines = [
        f"## {task}",
        "",
        f"| | prompt | reference | {' | '.join(names)} |",
        f"|---:|---|---|{'---|' * len(names)}",
    ]
    for number, row in enumerate(zip(*by_model.values(), strict=True), start=1):
        said = [f"{one.score:g} {_cell(one.text)}" for one in row]
        item = row[0].item
        lines.append(
            f"| {number} | {_cell(item.prompt)} | {_cell(item.reference)} | {' | '.join(said)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text as one cell: code, with new lines marked and bars escaped."""
    shown = text.strip().replace("`", "'").replace("|", "\\|").replace("\n", " ↵ ")
    return f"`{shown}`" if shown else "(nothing)"


def main(words: Sequence[str] | None = None) -> None:
    """Let all models answer; print or write the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.generations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="NAME=MODEL, or MODEL")
    parser.add_argument("--overrides", nargs="*", default=["experiment=smollm2"])
    parser.add_argument("--split", choices=("search", "test"), default="test")
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--to", type=Path, help="file to write instead of printing")
    args = parser.parse_args(words)
    chosen = api.settings(*args.overrides)
    by_task: dict[str, dict[str, list[Answered]]] = {}
    for word in args.models:
        name, _, model = word.rpartition("=")
        for task, said in answers(model, chosen, args.split, args.items).items():
            by_task.setdefault(task, {})[name or model.rpartition(":")[2]] = said
    text = "\n".join(table(task, said) for task, said in by_task.items())
    if args.to is None:
        print(text)
    else:
        args.to.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

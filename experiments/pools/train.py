"""Trains the bench's base and experts.

    python -m experiments.pools.train base        # half an hour of one core
    python -m experiments.pools.train experts     # two minutes each
    python -m experiments.pools.train list        # what each model scored when it was published

Runs from fixed seeds and goes on where it was stopped; models that are published stay as they are.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.pools.settings import EXPERTS, BenchSettings, bench_tasks
from experiments.zoo.corpus import Mixture
from experiments.zoo.publish import publish
from experiments.zoo.tokenizer import build_tokenizer
from experiments.zoo.train import exact_match_meter
from experiments.zoo.training import LogRow, train

MODELS = Path(__file__).parent / "models"
BASE = "base"


def tokenizer() -> PreTrainedTokenizerFast:
    """The bench's tokenizer: one token per word of all tasks."""
    return build_tokenizer(tuple(bench_tasks().values()))


def train_base(settings: BenchSettings, work: Path, target: Path) -> None:
    """Train the base and publish it.

    Args:
        settings: All knobs.
        work: Folder of the resumable training states.
        target: Folder that receives its checkpoint folder.
    """
    tasks, words = bench_tasks(), tokenizer()
    torch.manual_seed(settings.seed)
    fresh = LlamaForCausalLM(settings.llama(len(words)))
    mixture = Mixture(tasks, settings.text(), words, settings.base.pool, settings.seed + 1)
    meter = exact_match_meter(tasks, words)
    trained, log = train(fresh, mixture, settings.base, work / "base.pt", meter, every=500)
    publish(trained, words, log, _card(BASE, log), target / BASE)


def train_expert(name: str, settings: BenchSettings, work: Path, target: Path) -> None:
    """Train one expert from the base as it was published, and publish it."""
    expert, tasks, words = EXPERTS[name], bench_tasks(), tokenizer()
    start = LlamaForCausalLM.from_pretrained(target / BASE, dtype=torch.float32)
    text = settings.expert_text(expert)
    mixture = Mixture(tasks, text, words, expert.schedule.pool, expert.seed)
    meter = exact_match_meter(tasks, words)
    trained, log = train(start, mixture, expert.schedule, work / f"{name}.pt", meter, every=200)
    publish(trained, words, log, _card(name, log), target / name)


def _card(name: str, log: Sequence[LogRow]) -> str:
    how = "all tasks, mostly their easy parts" if name == BASE else json.dumps(vars(EXPERTS[name]))
    return (
        f"---\nlicense: apache-2.0\n---\n# {name}\n\nA model of the bench of tiny pools "
        f"(experiments/pools), trained on {how}. Last row of its log: {log[-1]}\n"
    )


def scores(folder: Path) -> dict[str, float]:
    """Teacher-forced exact match by task in the last row of a published model's log.

    Args:
        folder: Its folder; the items are 150 of each task's search split.
    """
    with (folder / "training_log.csv").open(encoding="utf-8", newline="") as file:
        *_, last = csv.DictReader(file)
    return {name: float(value) for name, value in last.items() if name in bench_tasks()}


def listed(models: Path) -> list[str]:
    """A table of the published models: own task, and how far the others moved from the base."""
    base = scores(models / BASE)
    lines = ["| expert | base on its task | expert on its task | mean change of the other tasks |"]
    lines.append("|---|---:|---:|---:|")
    for name, expert in EXPERTS.items():
        if (models / name).is_dir():
            own = scores(models / name)
            others = [own[task] - base[task] for task in base if task != expert.task]
            change = sum(others) / len(others)
            row = f"{base[expert.task]:.2f} | {own[expert.task]:.2f} | {change:+.3f}"
            lines.append(f"| {name} | {row} |")
    return lines


def main(words: Sequence[str] | None = None) -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["base", "experts", "list"])
    parser.add_argument("--only", nargs="+", choices=[*EXPERTS], help="these experts alone")
    parser.add_argument("--work", type=Path, default=Path("runs/pools"))
    parser.add_argument("--to", type=Path, default=MODELS)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    settings = BenchSettings()
    if args.what == "list":
        print("\n".join(listed(args.to)))
        return
    if args.what == "base":
        train_base(settings, args.work, args.to)
        return
    for name in args.only or EXPERTS:
        if not (args.to / name).is_dir():
            train_expert(name, settings, args.work, args.to)
            print(name, flush=True)


if __name__ == "__main__":
    main()

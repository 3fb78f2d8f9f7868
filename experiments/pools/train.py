"""Trains the bench's base and experts.

    python -m experiments.pools.train base        # half an hour of one core
    python -m experiments.pools.train experts     # two minutes each

Runs from fixed seeds and goes on where it was stopped; models that are published stay as they are.
"""

from __future__ import annotations

import argparse
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


def main(words: Sequence[str] | None = None) -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["base", "experts"])
    parser.add_argument("--only", nargs="+", choices=[*EXPERTS], help="these experts alone")
    parser.add_argument("--work", type=Path, default=Path("runs/pools"))
    parser.add_argument("--to", type=Path, default=MODELS)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    settings = BenchSettings()
    if args.what == "base":
        train_base(settings, args.work, args.to)
        return
    for name in args.only or EXPERTS:
        if not (args.to / name).is_dir():
            train_expert(name, settings, args.work, args.to)
            print(name, flush=True)


if __name__ == "__main__":
    main()

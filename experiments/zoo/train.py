"""Trains the four models of the tiny zoo and writes them into the package.

python -m experiments.zoo.train [--work runs/zoo] [--to hm3rl/models/zoo_data]

Runs from a fixed seed on one CPU core in about ten minutes; started again it goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from experiments.zoo.corpus import IGNORED, Mixture, encode
from experiments.zoo.publish import publish
from experiments.zoo.settings import NAMES, ZooSettings, zoo_tasks
from experiments.zoo.tokenizer import build_tokenizer
from experiments.zoo.training import LogRow, train

PACKAGED = Path(__file__).resolve().parents[2] / "hm3rl" / "models" / "zoo_data"
"""Where the package ships the zoo."""

Measure = Callable[[LlamaForCausalLM], dict[str, float]]


def train_zoo(
    settings: ZooSettings, work: Path, target: Path, experts: Sequence[str] = NAMES[1:]
) -> None:
    """Train base and experts and publish each as soon as it is done.

    Args:
        settings: All knobs.
        work: Folder of the resumable training states.
        target: Folder that receives one checkpoint folder per model.
        experts: The experts to train; each depends on the base alone.
    """
    tasks = zoo_tasks()
    tokenizer = build_tokenizer(tuple(tasks.values()))
    measure = exact_match_meter()

    def finish(name: str, start: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
        schedule, shares = settings.schedule(name), settings.shares(name)
        mixture = Mixture(tasks, shares, tokenizer, schedule.pool, seed)
        trained, log = train(start, mixture, schedule, work / f"{name}.pt", measure)
        publish(trained, tokenizer, log, model_card(name, settings, log), target / name)
        print(f"{name}: {log[-1]}", flush=True)
        return trained

    torch.manual_seed(settings.seed)
    fresh = LlamaForCausalLM(settings.llama(len(tokenizer)))
    base = finish("base", fresh, seed=settings.seed + 1)
    for number, name in enumerate(NAMES[1:]):
        if name in experts:
            finish(name, copy.deepcopy(base), seed=settings.seed + 10 + number)


def exact_match_meter() -> Measure:
    """Return a function that gives a model's teacher-forced exact match on the search items."""
    tasks = zoo_tasks()
    tokenizer = build_tokenizer(tuple(tasks.values()))
    encoded = {name: encode(task.items("search"), tokenizer) for name, task in tasks.items()}

    @torch.no_grad()
    def measure(model: LlamaForCausalLM) -> dict[str, float]:
        scores = {}
        for name, batch in encoded.items():
            wanted = batch.labels != IGNORED
            hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
            right = torch.ones_like(wanted)
            right[wanted] = model.lm_head(hidden[wanted]).argmax(-1) == batch.labels[wanted]
            scores[name] = float(right.all(dim=1).float().mean())
        return scores

    return measure


def model_card(name: str, settings: ZooSettings, log: list[LogRow]) -> str:
    """Write the model card of one zoo model."""
    schedule = settings.schedule(name)
    what = (
        "The base: masters an easy part of each of the three tasks, has seen a little of the rest."
        if name == "base"
        else f"The {name} expert: fine-tuned from the base on the whole {name} task, "
        f"with {settings.replay:.0%} replay of the base's text."
    )
    scores = ", ".join(f"{task} {log[-1][task]:.3f}" for task in NAMES[1:])
    return f"""---
license: apache-2.0
tags: [hm3rl, tiny-zoo]
language: [en, fr]
---
# hm3rl tiny zoo: {name}

{what}

Llama architecture, {settings.layers} layers, hidden size {settings.hidden}, tied embeddings, one
token per word, bf16. Trained on synthetic text only: of use in tests and demonstrations of model
merging, nowhere else.

- Trained by `python -m experiments.zoo.train`, seed {settings.seed}: {schedule.steps} steps of
  {schedule.rows} items, AdamW, peak learning rate {schedule.learning_rate:g}, averaged weights.
- Exact match on the 200 search items of each task after the last step (teacher-forced, fp32):
  {scores}.
- The full table, test split included, is in `experiments/zoo/README.md`.
- Prompts: `translate the small dog sees a green house =`, `compute 1 4 7 + 2 3 8 =` (answered
  backwards), `python add 3 then times 2 =`.
"""


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the tiny zoo.")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="training states")
    parser.add_argument("--to", type=Path, default=PACKAGED, help="folder of the checkpoints")
    parser.add_argument("--experts", nargs="*", choices=NAMES[1:], default=NAMES[1:])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_zoo(ZooSettings(), arguments.work, arguments.to, arguments.experts)


if __name__ == "__main__":
    main()

"""Trains the models of the tiny zoo and writes them into the package.

    python -m experiments.zoo.train [--work runs/zoo] [--to hm3rl/models/zoo_data]
    python -m experiments.zoo.train --more      # sorting and reversal, from the published base
    python -m experiments.zoo.train --lengths   # thinking and short, likewise

Runs from a fixed seed on one CPU core in about ten minutes; started again it goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.zoo.corpus import IGNORED, Mixture, encode
from experiments.zoo.publish import publish
from experiments.zoo.settings import LENGTHS, MORE, NAMES, ZooSettings, all_tasks, zoo_tasks
from experiments.zoo.tokenizer import build_tokenizer
from experiments.zoo.training import LogRow, train
from hm3rl.tasks.synthetic_text import SyntheticTask

PACKAGED = Path(__file__).resolve().parents[2] / "hm3rl" / "models" / "zoo_data"
"""Where the package ships the zoo."""

Measure = Callable[[LlamaForCausalLM], dict[str, float]]


def train_zoo(
    settings: ZooSettings, work: Path, target: Path, experts: Sequence[str] = NAMES[1:]
) -> None:
    """Train base and the first three experts and publish each as soon as it is done.

    Args:
        settings: All knobs.
        work: Folder of the resumable training states.
        target: Folder that receives one checkpoint folder per model.
        experts: The experts to train; each depends on the base alone.
    """
    tasks = zoo_tasks()
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer(tuple(tasks.values()))
    fresh = LlamaForCausalLM(settings.llama(len(tokenizer)))
    base = train_one("base", fresh, settings, settings.seed + 1, tasks, work, target)
    for number, name in enumerate(NAMES[1:]):
        if name in experts:
            start, seed = copy.deepcopy(base), settings.seed + 10 + number
            train_one(name, start, settings, seed, tasks, work, target)


def train_more(settings: ZooSettings, work: Path, target: Path) -> None:
    """Train sorting and reversal from the base as it was published, and publish them.

    Args:
        settings: All knobs.
        work: Folder of the resumable training states.
        target: Folder that holds the base and receives the experts.
    """
    for number, name in enumerate(MORE, start=len(NAMES) - 1):
        base = LlamaForCausalLM.from_pretrained(target / "base", dtype=torch.float32)
        seed = settings.seed + 10 + number
        train_one(name, base, settings, seed, all_tasks(), work, target)


def train_lengths(settings: ZooSettings, work: Path, target: Path) -> None:
    """Train the experts that think and that answer at once, from the base as it was published.

    Args:
        settings: All knobs.
        work: Folder of the resumable training states.
        target: Folder that holds the base and receives the experts.
    """
    for number, (name, make) in enumerate(LENGTHS.items(), start=len(NAMES) + len(MORE) - 1):
        base = LlamaForCausalLM.from_pretrained(target / "base", dtype=torch.float32)
        tasks = {"sums": make()}
        train_one(name, base, settings, settings.seed + 10 + number, tasks, work, target)


def train_one(
    name: str,
    start: LlamaForCausalLM,
    settings: ZooSettings,
    seed: int,
    tasks: Mapping[str, SyntheticTask],
    work: Path,
    target: Path,
) -> LlamaForCausalLM:
    """Train one model and publish it.

    Args:
        name: Its name.
        start: Model to start from, changed in place.
        settings: All knobs.
        seed: Seed of its data.
        tasks: Tasks it is trained on and measured by.
        work: Folder of the resumable training states.
        target: Folder that receives its checkpoint folder.
    """
    tokenizer = build_tokenizer(tuple(zoo_tasks().values()))
    schedule, shares = settings.schedule(name), settings.shares(name)
    mixture = Mixture(tasks, shares, tokenizer, schedule.pool, seed)
    state, meter = work / f"{name}.pt", exact_match_meter(tasks, tokenizer)
    trained, log = train(start, mixture, schedule, state, meter)
    publish(trained, tokenizer, log, model_card(name, settings, log), target / name)
    print(f"{name}: {log[-1]}", flush=True)
    return trained


def exact_match_meter(
    tasks: Mapping[str, SyntheticTask], tokenizer: PreTrainedTokenizerFast
) -> Measure:
    """Return a function that gives a model's teacher-forced exact match on the search items."""
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
    replay = settings.more_replay if name in MORE else settings.replay
    if name in LENGTHS:
        return length_card(name, settings, log)
    what = (
        "The base: masters an easy part of each of the three tasks, has seen a little of the rest."
        if name == "base"
        else f"The {name} expert: fine-tuned from the base on the whole {name} task, "
        f"with {replay:.0%} replay of the base's text."
    )
    if name in MORE:
        (other,) = set(MORE) - {name}
        what += f" {settings.more_other:.0%} of its text are easy items of {other}."
    measured = [task for task in (*NAMES[1:], *MORE) if task in log[-1]]
    scores = ", ".join(f"{task} {log[-1][task]:.3f}" for task in measured)
    command = "python -m experiments.zoo.train" + (" --more" if name in MORE else "")
    prompts = {
        "sorting": "`small first 7 2 5 =` (smallest first)",
        "reversal": "`negate dog cat house =` (in the opposite order)",
    }.get(
        name,
        "`translate the small dog sees a green house =`, `compute 1 4 7 + 2 3 8 =` (answered\n"
        "  backwards), `python add 3 then times 2 =`",
    )
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

- Trained by `{command}`, seed {settings.seed}: {schedule.steps} steps of
  {schedule.rows} items, AdamW, peak learning rate {schedule.learning_rate:g}, averaged weights.
- Exact match on the 200 search items of each task after the last step (teacher-forced, fp32):
  {scores}.
- The full table, test split included, is in `experiments/zoo/README.md`.
- Prompts: {prompts}.
"""


def length_card(name: str, settings: ZooSettings, log: list[LogRow]) -> str:
    """Write the model card of an expert for long to short."""
    schedule = settings.schedule(name)
    how = "worked out, `5 8 3 then 3 8 5`" if name == "thinking" else "at once, `3 8 5`"
    return f"""---
license: apache-2.0
tags: [hm3rl, tiny-zoo]
---
# hm3rl tiny zoo: {name}

Fine-tuned from the base on sums, `add 1 4 7 + 2 3 8 =`, answered {how}. Of use in tests and
demonstrations of model merging, nowhere else.

- Trained by `python -m experiments.zoo.train --lengths`, seed {settings.seed}:
  {schedule.steps} steps of {schedule.rows} items, AdamW, peak learning rate
  {schedule.learning_rate:g}, averaged weights.
- Its own answer, word by word, on {log[-1]["sums"]:.3f} of 200 search items
  (teacher-forced, fp32).
"""


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description="Train the tiny zoo.")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="training states")
    parser.add_argument("--to", type=Path, default=PACKAGED, help="folder of the checkpoints")
    parser.add_argument("--experts", nargs="*", choices=NAMES[1:], default=NAMES[1:])
    parser.add_argument("--more", action="store_true", help="sorting and reversal instead")
    parser.add_argument("--lengths", action="store_true", help="thinking and short instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.more:
        train_more(ZooSettings(), arguments.work, arguments.to)
        return
    if arguments.lengths:
        train_lengths(ZooSettings(), arguments.work, arguments.to)
        return
    train_zoo(ZooSettings(), arguments.work, arguments.to, arguments.experts)


if __name__ == "__main__":
    main()

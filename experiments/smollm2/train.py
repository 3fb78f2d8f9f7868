"""Trains one expert as a LoRA adapter over SmolLM2-135M-Instruct.

    hm3rl fetch smollm2
    python -m experiments.smollm2.train translation    # then math, code; --steps, --threads, -h

Writes adapters/NAME: adapter_config.json and adapter_model.safetensors as PEFT does, a model card,
training_log.csv and training.json. The pool then finds it as smollm2:NAME.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from experiments.smollm2.data import GENERATORS
from hm3rl.errors import InputError
from hm3rl.models.fingerprint import folder_hash
from hm3rl.models.loading import load_model
from hm3rl.models.pretrained import SOURCES
from hm3rl.models.source import read_source
from hm3rl.models.zoo import resolve_source

if TYPE_CHECKING:
    from peft import PeftModel

    from experiments.smollm2.training import LogRow, Schedule

BASE = "smollm2:base"
ADAPTERS = Path(__file__).with_name("adapters")
"""What configs/pool/smollm2.yaml gives as pool.smollm2_adapters."""
PACKAGES = ("torch", "transformers", "peft")


def train_expert(expert: str, schedule: Schedule, base: str, device: str, target: Path) -> None:
    """Train an expert and write its folder.

    Args:
        expert: Key of `GENERATORS`.
        schedule: Length and speed.
        base: Reference of the base: "smollm2:base", or a folder.
        device: "cpu", or a GPU.
        target: Folder of the adapter; it must not exist.

    Raises:
        InputError: A number is out of range, the base is missing or unusable, or the folder exists.
    """
    from experiments.smollm2.training import train

    if min(schedule.steps, schedule.rows, schedule.rank, schedule.every, schedule.measured) < 1:
        raise InputError(f"{schedule}: numbers below 1", "give 1 or more of everything")
    if not 0 <= schedule.replay < 1:
        raise InputError(f"--replay {schedule.replay:g}", "give a share in [0, 1)")
    if target.exists():
        raise InputError(f"{target} exists", "move it away, or give another folder with --to")
    folder = resolve_source(base)
    source = read_source("base", folder)
    model = load_model("base", folder, source.config, torch.bfloat16, device)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    adapted, log = train(model, tokenizer, expert, schedule)
    facts = {
        "expert": expert,
        "base": base if base == BASE else folder.name,
        "base_content_hash": folder_hash(folder, list(source.files)),
        "schedule": asdict(schedule),
        "threads": torch.get_num_threads(),
        "device": device,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }
    publish(adapted, log, facts, target)


def publish(adapted: PeftModel, log: Sequence[LogRow], facts: dict[str, Any], target: Path) -> None:
    """Write adapter, model card, log and facts; the folder appears when all is there.

    Args:
        adapted: The trained model.
        log: Rows of the training log.
        facts: What training.json holds.
        target: Folder to write.
    """
    named = SOURCES["smollm2"].model if facts["base"] == BASE else facts["base"]
    # PEFT would note the folder that the base was loaded from.
    settings = adapted.peft_config["default"]
    settings.base_model_name_or_path = named
    settings.target_modules = sorted(settings.target_modules)  # a set, written in any order
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".train-", dir=target.parent) as temporary:
        fresh = Path(temporary) / target.name
        adapted.save_pretrained(fresh, save_embedding_layers=False)
        (fresh / "README.md").write_text(model_card(named, log, facts), encoding="utf-8")
        (fresh / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        with (fresh / "training_log.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(log[-1]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in log)
        for file in fresh.iterdir():
            file.chmod(0o644)
        fresh.rename(target)


def model_card(base: str, log: Sequence[LogRow], facts: dict[str, Any]) -> str:
    """Write the model card of an adapter."""
    schedule = facts["schedule"]
    options = [
        f"--{key.replace('_', '-')} {value}"
        for key, value in schedule.items()
        if value != _defaults()[key]
    ]
    command = " ".join(["python -m experiments.smollm2.train", facts["expert"], *options])
    rows = (("base", log[0]), ("this expert", log[-1]))
    table = "\n".join(
        f"| {name} | " + " | ".join(f"{row[task]:.3f}" for task in GENERATORS) + " |"
        for name, row in rows
    )
    return f"""---
license: apache-2.0
base_model: {base}
library_name: peft
tags: [lora, hm3rl]
language: [en, fr]
---
# hm3rl SmolLM2: {facts["expert"]}

A LoRA adapter (rank {schedule["rank"]}, all linear layers, bf16) over {base}, trained on
generated text, {schedule["replay"]:.0%} of it for the other two experts' tasks. Of use in
experiments with model merging.

- Trained by `{command}`: {schedule["steps"]} steps of {schedule["rows"]} items.
- The weights it was trained on have the content hash `{facts["base_content_hash"][:16]}`.
- Its translations use names of Unicode CLDR (Unicode License v3).

Exact match, teacher-forced, on the first {schedule["measured"]} search items of each task:

| model | {" | ".join(GENERATORS)} |
|---|{"---|" * len(GENERATORS)}
{table}
"""


def _defaults() -> dict[str, Any]:
    from experiments.smollm2.training import Schedule

    return asdict(Schedule())


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line and train; return the exit code."""
    if find_spec("peft") is None:
        print(
            "error: training needs the package peft\n  -> pip install 'hm3rl[smollm2]'",
            file=sys.stderr,
        )
        return 2
    from experiments.smollm2.training import Schedule

    parser = argparse.ArgumentParser(description="Train an expert over SmolLM2-135M.")
    parser.add_argument("expert", choices=list(GENERATORS))
    parser.add_argument("--base", default=BASE, help="a name or a folder")
    parser.add_argument("--to", type=Path, help="folder to write; default: adapters/EXPERT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    for field in fields(Schedule):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default)
    arguments = parser.parse_args(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    schedule = Schedule(
        **{field.name: getattr(arguments, field.name) for field in fields(Schedule)}
    )
    target = arguments.to or ADAPTERS / arguments.expert
    try:
        train_expert(arguments.expert, schedule, arguments.base, arguments.device, target)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

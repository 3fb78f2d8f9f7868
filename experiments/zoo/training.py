"""One training run: AdamW with warm-up and decay, answers only, averaged weights, resumable."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from experiments.zoo.corpus import IGNORED, Batch, Mixture


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one model is trained.

    Attributes:
        steps: Optimiser steps.
        rows: Items per step.
        learning_rate: Peak learning rate, reached after `warmup` steps, then decayed linearly.
        warmup: Steps of linear warm-up.
        average: Decay of the exponential moving average of the weights; 0 keeps the last weights.
        weight_decay: AdamW's decoupled weight decay.
        pool: Training items generated per task and level, then sampled with replacement.
    """

    steps: int
    rows: int
    learning_rate: float
    warmup: int = 50
    average: float = 0.0
    weight_decay: float = 0.01
    pool: int = 60_000


LogRow = dict[str, float]


def train(
    model: LlamaForCausalLM,
    mixture: Mixture,
    schedule: Schedule,
    checkpoint: Path,
    measure: Callable[[LlamaForCausalLM], dict[str, float]],
    every: int = 100,
) -> tuple[LlamaForCausalLM, list[LogRow]]:
    """Train a model in place, going on from `checkpoint` if it exists.

    Args:
        model: The model to start from.
        mixture: Where batches come from.
        schedule: Length and speed.
        checkpoint: File that holds the state of an unfinished or finished run.
        measure: Returns what is logged beside step and loss, e.g. scores per task.
        every: Steps between log rows and checkpoints.

    Returns:
        The trained (averaged) model in eval mode and the log, one row per `every` steps.
    """
    model.train()
    average = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=schedule.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=schedule.weight_decay,
    )
    log: list[LogRow] = []
    step, spent, running = 0, 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["schedule"] != asdict(schedule):
            raise ValueError(f"{checkpoint} belongs to another schedule: {state['schedule']}")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        mixture.state = state["mixture"]
        step, spent, log = state["step"], state["seconds"], state["log"]
    started = time.monotonic()
    while step < schedule.steps:
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * _rate(step, schedule)
        running += _update(model, mixture.draw(schedule.rows), optimiser)
        _average(average, model, min(schedule.average, step / (step + 10)))
        step += 1
        if step % every == 0 or step == schedule.steps:
            seconds = spent + time.monotonic() - started
            since = every if step % every == 0 else step % every
            row = {"step": float(step), "seconds": round(seconds, 1), "loss": running / since}
            log.append(row | measure(average))
            running = 0.0
            _save(checkpoint, model, average, optimiser, mixture, schedule, step, seconds, log)
    return average.eval(), log


def _rate(step: int, schedule: Schedule) -> float:
    """Return the share of the peak learning rate at a step."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    return max(0.02, (schedule.steps - step) / (schedule.steps - schedule.warmup))


def _update(
    model: LlamaForCausalLM, batches: list[Batch], optimiser: torch.optim.Optimizer
) -> float:
    """Take one step on the mean loss per answer token of all batches together; return it."""
    tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
    total = 0.0
    optimiser.zero_grad(set_to_none=True)
    for batch in batches:
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        wanted = batch.labels != IGNORED
        logits = model.lm_head(hidden[wanted])
        loss = cross_entropy(logits, batch.labels[wanted], reduction="sum") / tokens
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return total


@torch.no_grad()
def _average(average: LlamaForCausalLM, model: LlamaForCausalLM, decay: float) -> None:
    """Move the averaged weights towards the current ones."""
    pairs = list(zip(average.parameters(), model.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [m for _, m in pairs], 1.0 - decay)


def _save(
    path: Path,
    model: LlamaForCausalLM,
    average: LlamaForCausalLM,
    optimiser: torch.optim.Optimizer,
    mixture: Mixture,
    schedule: Schedule,
    step: int,
    seconds: float,
    log: list[LogRow],
) -> None:
    """Write the whole state to `path`, replacing the previous one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "mixture": mixture.state,
        "schedule": asdict(schedule),
        "step": step,
        "seconds": seconds,
        "log": log,
    }
    torch.save(state, temporary)
    temporary.replace(path)

"""LoRA training of one expert: answers only, AdamW with warm-up and decay, in bf16.

Adapters sit on all linear layers (Hu et al., arXiv 2106.09685; the head, tied to the embedding,
stays as it is). Their factors are kept in fp32 while they are trained, cast to bf16 once at the
end, and measured after that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.smollm2.data import GENERATORS, held_out_rows, training_rows
from experiments.smollm2.rows import Row

IGNORED = -100

WINDOW = 16
"""Steps whose rows are put together by length, so that fewer columns are padding."""


@dataclass(frozen=True)
class Schedule:
    """How an expert is trained.

    Attributes:
        steps: Optimiser steps.
        rows: Items per step.
        learning_rate: Peak learning rate, reached after `warmup` steps, then decayed linearly.
        warmup: Steps of linear warm-up, at most a tenth of all.
        rank: Rank of the factors; alpha is twice the rank.
        replay: Share of items that belong to the other experts' tasks.
        seed: Seed of the factors and of the training text.
        every: Steps between rows of the log.
        measured: Search items of each task that the log's scores are taken on.
    """

    steps: int = 400
    rows: int = 16
    learning_rate: float = 1e-3
    warmup: int = 50
    rank: int = 4
    replay: float = 0.05
    seed: int = 0
    every: int = 100
    measured: int = 32


class Batch(NamedTuple):
    """Token ids padded on the right, their mask, and labels: shape (B, T) each.

    Labels are `IGNORED` but for the answers and their end tokens; label t is predicted at t - 1.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


LogRow = dict[str, float]


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, device: str) -> Batch:
    """Tokenise prompt and answer apart, as the package's tasks do, and put them one after another.

    Args:
        rows: Items.
        tokenizer: The base's tokenizer; its end token ends every answer.
        device: Where the tensors go.
    """
    pairs = []
    for row in rows:
        answer = tokenizer(row.reference, add_special_tokens=False).input_ids
        pairs.append((tokenizer(row.prompt).input_ids, [*answer, tokenizer.eos_token_id]))
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(rows), length), tokenizer.eos_token_id)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for line, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[line, :end] = torch.tensor(prompt + answer)
        mask[line, :end] = 1
        labels[line, len(prompt) : end] = torch.tensor(answer)
    return Batch(ids.to(device), mask.to(device), labels.to(device))


def predict(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where an answer's token is wanted, of shape (N, V), and the N tokens in fp32.

    The head is applied there alone: the vocabulary is large, and prompts are half of the text.
    """
    with torch.autocast(batch.ids.device.type, torch.bfloat16):
        hidden = model.base_model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).last_hidden_state
        wanted = batch.labels[:, 1:] != IGNORED
        logits = model.get_output_embeddings()(hidden[:, :-1][wanted])
    return logits.float(), batch.labels[:, 1:][wanted]


@torch.no_grad()
def exact_match(model: PreTrainedModel, batch: Batch) -> float:
    """Share of items whose every answer token is the argmax, given the ones before it."""
    logits, tokens = predict(model, batch)
    wanted = batch.labels[:, 1:] != IGNORED
    right = torch.ones_like(wanted)
    right[wanted] = logits.argmax(-1) == tokens
    return float(right.all(dim=1).float().mean())


def mixture(expert: str, schedule: Schedule) -> list[Row]:
    """Draw all training text of an expert, in the order of the steps.

    Args:
        expert: Key of `GENERATORS`.
        schedule: Length, share of replay and seed.

    Returns:
        `steps * rows` rows, none of them held out.
    """
    total = schedule.steps * schedule.rows
    others = [task for task in GENERATORS if task != expert]
    replayed = round(total * schedule.replay)
    rows = training_rows(expert, total - replayed, schedule.seed)
    for number, task in enumerate(others):
        count = replayed * (number + 1) // len(others) - replayed * number // len(others)
        rows += training_rows(task, count, schedule.seed)
    rng = random.Random(f"smollm2/{expert}/order/{schedule.seed}")
    rng.shuffle(rows)
    ordered: list[Row] = []
    for first in range(0, total, WINDOW * schedule.rows):
        window = sorted(rows[first : first + WINDOW * schedule.rows], key=_length)
        steps = [window[i : i + schedule.rows] for i in range(0, len(window), schedule.rows)]
        rng.shuffle(steps)
        ordered += [row for step in steps for row in step]
    return ordered


def _length(row: Row) -> int:
    """Characters, which go with tokens closely enough to put rows of one length together."""
    return len(row.prompt) + len(row.reference)


def train(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    expert: str,
    schedule: Schedule,
) -> tuple[PeftModel, list[LogRow]]:
    """Train one adapter.

    Args:
        base: The base in bf16; adapters are put into it.
        tokenizer: Its tokenizer.
        expert: Key of `GENERATORS`.
        schedule: Length and speed.

    Returns:
        The adapted model, its factors in bf16, and the log: a row for step 0 (the base, hence no
        loss), one every `every` steps, and one for the model as returned.
    """
    device = str(base.device)
    if base.device.type == "cpu":
        # Rows are short: the fused kernel's backward pass is the slower one there.
        base.set_attn_implementation("eager")
    rows = mixture(expert, schedule)
    meters = {
        task: encode(held_out_rows(task, "search", schedule.measured), tokenizer, device)
        for task in GENERATORS
    }
    torch.manual_seed(schedule.seed)
    settings = LoraConfig(
        r=schedule.rank,
        lora_alpha=2 * schedule.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted: Any = get_peft_model(base, settings)
    inner: PreTrainedModel = adapted.get_base_model()
    factors = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(factors, lr=schedule.learning_rate, weight_decay=0.0)
    log: list[LogRow] = [{"step": 0, "seconds": 0.0, **_measure(inner, meters)}]
    begun, losses = time.monotonic(), []
    for step in range(1, schedule.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * rate(step, schedule)
        batch = encode(rows[(step - 1) * schedule.rows : step * schedule.rows], tokenizer, device)
        losses.append(_update(inner, batch, factors, optimiser))
        last = step == schedule.steps
        if last:
            for factor in factors:
                factor.data = factor.data.bfloat16()
        if last or step % schedule.every == 0:
            seconds, loss = time.monotonic() - begun, sum(losses) / len(losses)
            log.append({"step": step, "seconds": seconds, "loss": loss, **_measure(inner, meters)})
            losses = []
            print(_as_line(log[-1]), flush=True)
    return adapted.eval(), log


def rate(step: int, schedule: Schedule) -> float:
    """Share of the peak learning rate at a step, counted from 1."""
    warmup = min(schedule.warmup, schedule.steps // 10)
    if step <= warmup:
        return step / warmup
    return (schedule.steps - step + 1) / (schedule.steps - warmup)


def _update(
    model: PreTrainedModel,
    batch: Batch,
    factors: list[torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> float:
    """Take one step on the mean loss per answer token; return it."""
    model.train()
    optimiser.zero_grad(set_to_none=True)
    logits, tokens = predict(model, batch)
    loss = cross_entropy(logits, tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(factors, 1.0)
    optimiser.step()
    return float(loss.detach())


def _measure(model: PreTrainedModel, meters: Mapping[str, Batch]) -> dict[str, float]:
    model.eval()
    return {task: exact_match(model, batch) for task, batch in meters.items()}


def _as_line(row: LogRow) -> str:
    return "  ".join(f"{key} {value:.4g}" for key, value in row.items())

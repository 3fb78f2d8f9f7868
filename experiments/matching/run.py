"""Train pairs of tiny models of different initialisation, match them, walk between them.

    python -m experiments.matching.run                    # three pairs, resumable; results/
    python -m experiments.matching.run --seeds 3 4        # only these pairs
    python -m experiments.matching.run --shrink           # seconds, to see that it runs

Both models of a pair learn one task from the same grammar, each with weights and items of its own
seed. The second is matched to the first by `hm3rl.matching` and loss and exact match are measured
along the line between them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedModel

from experiments.zoo.corpus import IGNORED, Batch, Mixture, encode
from experiments.zoo.settings import ZooSettings, all_tasks, zoo_tasks
from experiments.zoo.tokenizer import build_tokenizer
from experiments.zoo.training import Schedule, train
from hm3rl.files import write_csv, write_text
from hm3rl.matching.units import match_units
from hm3rl.models.shallow import deep_shallow_copy, named_tensors
from hm3rl.run.calibration import calibration_batch
from hm3rl.tasks.base import Split

TASK = "sorting"
TUNED = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the weights of which the best is chosen, by the midpoint's loss on training items."""

NONE, WEIGHTS, ACTIVATIONS, HALF, CHOSEN = "none", "weights", "activations", "half", "chosen"
METHODS = {
    NONE: "not matched",
    WEIGHTS: "weights alone (γ = 1)",
    ACTIVATIONS: "activations alone (γ = 0)",
    HALF: "both (γ = 0.5)",
    CHOSEN: "both, γ chosen on training items",
}
SPLITS: tuple[Split, ...] = ("search", "test")
COLUMNS = ("method", "gamma", "seed", "split", "alpha", "loss", "exact_match")
UNITS = ("gamma", "seed", "similarity_before", "similarity", "moved", "sweeps", "train_midpoint")


@dataclass(frozen=True)
class Sizes:
    """How large a study is.

    Attributes:
        zoo: Architecture.
        schedule: Training of each model.
        seeds: Pairs.
        items: Training items that activations are compared on, and that gamma is chosen on.
        points: Points of a line, ends included, an odd number.
        tuned: Of which gammas the best is chosen.
    """

    zoo: ZooSettings
    schedule: Schedule
    seeds: tuple[int, ...]
    items: int
    points: int
    tuned: tuple[float, ...]


FULL = Sizes(
    ZooSettings(layers=4),
    Schedule(steps=300, rows=96, learning_rate=3e-3, warmup=60, average=0.98, pool=40_000),
    (0, 1, 2),
    256,
    9,
    TUNED,
)
SMALL = Sizes(
    ZooSettings(layers=2, hidden=16, intermediate=32),
    Schedule(steps=4, rows=8, learning_rate=3e-3, warmup=2, average=0.5, pool=100),
    (0,),
    8,
    3,
    (0.5,),
)


@dataclass(frozen=True)
class Row:
    """Loss and exact match at a point of a line.

    Attributes:
        method: One of `METHODS`.
        gamma: Share of the weights; empty where nothing is matched.
        seed: The pair.
        split: Whose items.
        alpha: Share of the second model.
        loss: Mean cross-entropy of an answer's token, in nats.
        exact_match: Share of items whose whole answer is right, teacher-forced.
    """

    method: str
    gamma: str
    seed: int
    split: str
    alpha: float
    loss: float
    exact_match: float


def trained_pair(sizes: Sizes, seed: int, root: Path) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Train both models of a pair, or take them from where an earlier run left them."""
    tokenizer = build_tokenizer(tuple(zoo_tasks().values()))
    tasks = {TASK: all_tasks()[TASK]}
    batch = encode(tasks[TASK].items("search"), tokenizer)
    models = []
    for place in (0, 1):
        number = 2 * seed + place
        torch.manual_seed(1000 + number)
        fresh = LlamaForCausalLM(sizes.zoo.llama(len(tokenizer)))
        mixture = Mixture(tasks, {(TASK, "full"): 1.0}, tokenizer, sizes.schedule.pool, number)
        state = root / f"{number}.pt"
        model, log = train(
            fresh, mixture, sizes.schedule, state, lambda m: {"exact": measure(m, batch)[1]}
        )
        print(f"pair {seed}, model {place}: {log[-1]}", flush=True)
        models.append(model.requires_grad_(False))
    return models[0], models[1]


@torch.no_grad()
def measure(model: PreTrainedModel, batch: Batch) -> tuple[float, float]:
    """Loss of an answer's token in nats, and exact match, both teacher-forced."""
    wanted = batch.labels != IGNORED
    logits = model(input_ids=batch.ids, use_cache=False).logits[wanted]
    right = torch.ones_like(wanted)
    right[wanted] = logits.argmax(-1) == batch.labels[wanted]
    loss = cross_entropy(logits, batch.labels[wanted])
    return float(loss), float(right.all(dim=1).float().mean())


@torch.no_grad()
def between(one: PreTrainedModel, other: PreTrainedModel, alpha: float) -> PreTrainedModel:
    """The model at a point of the line, 0 for the first."""
    theirs = named_tensors(other)
    mixed = {
        id(tensor): (1 - alpha) * tensor + alpha * theirs[name]
        for name, tensor in named_tensors(one).items()
    }
    return deep_shallow_copy(one, mixed)


def study_pair(sizes: Sizes, seed: int, root: Path) -> tuple[list[Row], list[list[object]]]:
    """Match a pair in every way and walk every line.

    Returns:
        Rows of all lines, and a row of `UNITS` for each gamma.
    """
    one, other = trained_pair(sizes, seed, root)
    tokenizer = build_tokenizer(tuple(zoo_tasks().values()))
    task = all_tasks()[TASK]
    calibration = calibration_batch([task], tokenizer, sizes.items, "cpu")
    batches = {split: encode(task.items(split), tokenizer) for split in SPLITS}
    trained = sorted(task.items("train"), key=lambda item: item.key)[: sizes.items]
    tuning = encode(trained, tokenizer)

    def walk(method: str, gamma: str, end: PreTrainedModel) -> list[Row]:
        rows = []
        for alpha in np.linspace(0, 1, sizes.points):
            model = between(one, end, float(alpha))
            for split, batch in batches.items():
                found = measure(model, batch)
                rows.append(Row(method, gamma, seed, split, float(alpha), *found))
        return rows

    units: list[list[object]] = []
    matched: dict[float, PreTrainedModel] = {}
    losses: dict[float, float] = {}
    for gamma in sorted({0.0, 1.0, *sizes.tuned}):
        found = match_units(one, other, gamma, calibration)
        orders = [*found.orders.values()]
        moved = sum(int((order != torch.arange(len(order))).sum()) for order in orders)
        matched[gamma] = found.apply(other)
        losses[gamma] = measure(between(one, matched[gamma], 0.5), tuning)[0]
        shares = (found.before, found.similarity, moved / sum(map(len, orders)))
        numbers = (*(f"{share:.4f}" for share in shares), found.sweeps, f"{losses[gamma]:.5f}")
        units.append([gamma, seed, *numbers])
    best = min(sizes.tuned, key=lambda gamma: losses[gamma])
    rows = walk(NONE, "", other)
    for method, gamma in {WEIGHTS: 1.0, ACTIVATIONS: 0.0, HALF: 0.5, CHOSEN: best}.items():
        rows += walk(method, f"{gamma:g}", matched[gamma])
    return rows, units


def barrier(line: Sequence[Row]) -> float:
    """How far the loss rises above the straight line between the ends' losses, at most."""
    first, last = line[0].loss, line[-1].loss
    return max(row.loss - ((1 - row.alpha) * first + row.alpha * last) for row in line)


def table(rows: Sequence[Row]) -> str:
    """Markdown: means over the pairs, with the smallest and the largest."""
    lines = [
        "| second model | split | loss at the midpoint | barrier | exact match at the midpoint |",
        "|---|---|---:|---:|---:|",
    ]
    for method, label in METHODS.items():
        for split in SPLITS:
            mine = [row for row in rows if (row.method, row.split) == (method, split)]
            seeds = sorted({row.seed for row in mine})
            walks = [[row for row in mine if row.seed == seed] for seed in seeds]
            middle = [next(row for row in walk if row.alpha == 0.5) for walk in walks]
            cells = (
                _written([row.loss for row in middle]),
                _written([barrier(walk) for walk in walks]),
                _written([row.exact_match for row in middle]),
            )
            lines.append(f"| {label} | {split} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _written(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def write(rows: Sequence[Row], units: Sequence[Sequence[object]], results: Path) -> None:
    """Write lines.csv, units.csv and table.md."""
    results.mkdir(parents=True, exist_ok=True)
    shown = [
        [r.method, r.gamma, r.seed, r.split, r.alpha, f"{r.loss:.5f}", f"{r.exact_match:.4f}"]
        for r in rows
    ]
    write_csv(results / "lines.csv", COLUMNS, shown)
    write_csv(results / "units.csv", UNITS, units)
    write_text(results / "table.md", table(rows))


def main(words: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.matching.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shrink", action="store_true", help="tiny models that learn nothing")
    parser.add_argument("--seeds", type=int, nargs="+", help="pairs, instead of the study's")
    parser.add_argument("--root", type=Path, default=Path("runs/matching"), help="trained models")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    sizes = SMALL if args.shrink else FULL
    results = args.root / "results" if args.shrink else Path(__file__).parent / "results"
    rows: list[Row] = []
    units: list[list[object]] = []
    for seed in args.seeds or sizes.seeds:
        found, numbers = study_pair(sizes, seed, args.root / ("shrunk" if args.shrink else "full"))
        rows, units = rows + found, units + numbers
        write(rows, units, results)
    print(table(rows))


if __name__ == "__main__":
    main()

"""Models of every family that units are matched in, and random orders of their units."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from hm3rl.export.weights import copy_tokenizer
from hm3rl.matching.axes import (
    KEYS,
    MLP,
    QUERIES,
    READ,
    STREAM,
    VALUES,
    Layout,
    axis_of,
    kind_of,
    layout_of,
    permuted,
)
from hm3rl.models.pool import ModelPool
from hm3rl.paths.statistics import Calibration

TOKENS = torch.randint(3, 32, (6, 20), generator=torch.Generator().manual_seed(0))
CALIBRATION = Calibration.of([row[: 20 - n].tolist() for n, row in enumerate(TOKENS)])


def random_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model whose norms and biases are random, too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_orders(layout: Layout, seed: int = 1) -> dict[str, torch.Tensor]:
    """Orders drawn from all that leave the function as it is."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> torch.Tensor:
        return torch.randperm(count, generator=generator)

    plain = [axis for axis in layout.sizes if kind_of(axis) in (STREAM, MLP)]
    orders = {axis: drawn(layout.sizes[axis]) for axis in plain}
    heads, still = layout.heads, torch.arange(layout.heads.size)
    for layer in range(layout.layers):
        found: dict[str, list[torch.Tensor]] = {QUERIES: [], KEYS: [], VALUES: [], READ: []}
        for group in drawn(heads.groups):
            channels = drawn(heads.size)
            found[KEYS].append(group * heads.size + still)
            found[VALUES].append(group * heads.size + channels)
            for head in drawn(heads.queries):
                start = (group * heads.queries + head) * heads.size
                found[QUERIES].append(start + still)
                found[READ].append(start + channels)
        orders |= {axis_of(layer, kind): torch.cat(parts) for kind, parts in found.items()}
    return orders


def logit_error(model: PreTrainedModel, other: PreTrainedModel) -> float:
    """Largest difference of logits over the largest logit."""
    wanted, found = model(TOKENS).logits, other(TOKENS).logits
    return float((found - wanted).abs().max() / wanted.abs().max())


def write_planted(expert: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write an expert of the tiny zoo with its units in a random order; returns the folder."""
    pool = ModelPool.load("zoo:base", {expert: f"zoo:{expert}"}, dtype)
    model = pool.model(expert)
    layout = layout_of(model)
    permuted(model, layout, random_orders(layout)).save_pretrained(folder)
    copy_tokenizer(pool.paths[expert], folder)
    return folder

"""`hm3rl check`: what a run needs, before anything runs."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch

from hm3rl.search.build import STITCHING, build_members, check_settings, load_pool
from hm3rl.settings import RunSettings
from hm3rl.tasks.build import build_tasks

GIB = 2**30


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """Measured multiply-add operations a second of a matrix product, two operations each.

    Args:
        dtype: Precision.
        device: Where to measure.

    Returns:
        Floating-point operations a second; a tenth of a second is spent on measuring.
    """
    size = 512
    a = torch.rand(size, size, device=device).to(dtype)
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < 0.1:
        a @ a
        runs += 1
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return runs * 2 * size**3 / (time.perf_counter() - begun)


def check_report(settings: RunSettings) -> dict[str, Any]:
    """Load and compare the sources, count what a search would do; no candidate is scored.

    Args:
        settings: The run.

    Returns:
        Readable facts by name.

    Raises:
        InputError: The sources do not fit together, or the configuration cannot work.
    """
    check_settings(settings)
    pool = load_pool(settings)
    if settings.search.name not in STITCHING:
        pool.check_mergeable(pool.expert_names)
    tasks = build_tasks(settings.tasks, settings.evaluation, pool.tokenizer)
    calibration = build_members(settings, pool, tasks).calibration
    model = pool.model(pool.base_name)
    parameters = sum(p.numel() for p in model.parameters())
    bytes_each = sum(p.nbytes for p in model.parameters())
    items = {task.name: len(task.items("search")) for task in tasks}
    tokens = sum(
        len(pool.tokenizer(item.prompt + " " + item.reference)["input_ids"])
        for task in tasks
        for item in task.items("search")
    )
    # One teacher-forced pass; generation of the items it does not settle costs about as much again.
    operations = 2.0 * parameters * tokens
    rate = matmul_rate(pool.dtype, pool.device)
    members = settings.search.parameter.members
    resident = bytes_each * (len(pool.names) + members)
    # Task vectors are held in fp32, one for each expert.
    resident += 4 * parameters * len(pool.expert_names)
    root = Path(settings.output or settings.root).resolve()
    while not root.exists():
        root = root.parent
    return {
        "compatible": f"yes: {', '.join(pool.names)}",
        "vocabulary": "; ".join(pool.notes) or f"one for all: {len(pool.tokenizer)} tokens",
        "alignment": settings.paths.alignment
        + ("" if calibration is None else f", fitted on {int(calibration.attention_mask.sum())} ")
        + ("" if calibration is None else "tokens of training items"),
        "layers": pool.num_layers,
        "parameters": f"{parameters:,} in each source",
        "precision": f"{settings.pool.dtype} on {settings.pool.device}",
        "tasks": ", ".join(f"{name} ({count} search items)" for name, count in items.items()),
        **{
            f"{task.name} {subject}": note
            for task in tasks
            for subject, note in task.notes().items()
        },
        "evaluations": settings.budget,
        "memory": f"{resident / GIB:.2f} GiB: sources, task vectors, {members} merged members",
        "disk": f"{bytes_each / GIB:.3f} GiB for each exported model; "
        f"{shutil.disk_usage(root).free / GIB:.0f} GiB free",
        "time": f"about {settings.budget * operations / rate:.0f} s in forward passes at the "
        f"matrix-product rate measured here ({rate / 1e9:.0f} GFLOP/s); generation, small "
        "layers and agent training come on top, several times that for tiny models",
    }

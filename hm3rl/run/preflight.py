"""`hm3rl check`: what a run needs, before anything runs."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import MergingSettings
from hm3rl.config.tasks import OwnTaskSettings, TaskSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.costs import Minimised
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.problem import refuse_impossible
from hm3rl.evaluation.requests import Request
from hm3rl.evaluation.result import Evaluation
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.merging.mergeability import described, mergeability
from hm3rl.merging.task_vectors import DEFAULT_LIMIT
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import Candidate
from hm3rl.run.build import (
    build_evaluator,
    build_members,
    build_searcher,
    check_settings,
    load_pool,
    path_limits,
)
from hm3rl.run.references import reference_candidates
from hm3rl.tasks.base import Split, Task
from hm3rl.tasks.build import build_tasks
from hm3rl.tasks.isolation import check_isolation

GIB = 2**30
SCORED: tuple[Split, ...] = ("search", "test")
EXACT = 0.05
"""Standard error of a score of 0.5 that is good enough to tell models apart: 100 items."""


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


def expected_front(budget: int, objectives: int) -> int:
    """Guess how many models a front has: the expected number of maxima of random points.

    Of n independent points in K dimensions about (ln n)^(K-1) / (K-1)! are non-dominated
    (Barndorff-Nielsen and Sobel, 1966).

    Args:
        budget: Number of evaluations n.
        objectives: Number of objectives K.

    Returns:
        The number, at least 1.
    """
    return max(
        1, round(math.log(max(budget, 1)) ** (objectives - 1) / math.factorial(objectives - 1))
    )


def memory_of(device: str) -> int:
    """Return the memory of a device in bytes: the GPU's, or the machine's."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def against(needed: float, there: float, where: str) -> str:
    """Compare what is needed with what there is, in words; both in bytes."""
    verdict = "" if needed <= there else f", NOT ENOUGH by {(needed - there) / GIB:.2f} GiB"
    return f"{where} {there / GIB:.0f} GiB{verdict}"


def free_disk(folder: Path) -> tuple[Path, int]:
    """Return the folder, or the nearest above it that exists, and its free bytes."""
    root = folder.expanduser().resolve()
    while not root.exists():
        root = root.parent
    return root, shutil.disk_usage(root).free


def peak_memory(pool: ModelPool, merged: int, kept: int) -> dict[str, int]:
    """Bound the memory of a search in bytes, part by part.

    Args:
        pool: The sources, loaded.
        merged: Number of merged members that are held at once.
        kept: Bytes of them that are kept (`pool.merged_mb`).

    Returns:
        Bytes by part: the sources; statistics of the task vectors, up to their limit; the merged
        members, up to theirs (one at least); and one more model being merged.
    """
    model = pool.model(pool.base_name)
    parameters = sum(p.numel() for p in model.parameters())
    each = sum(p.nbytes for p in model.parameters())
    sources = sum(p.nbytes for name in pool.names for p in pool.model(name).parameters())
    return {
        "sources": sources,
        # At most 20 bytes for each distinct magnitude and 4 for each sorted entry; mostly far less.
        "merge statistics": min(24 * parameters * len(pool.mergeable), DEFAULT_LIMIT),
        f"{merged} merged members": max(min(each * merged, kept), each),
        "one merge": each,
    }


def _error(count: int) -> float:
    """Standard error of a share of one half among so many items, the largest there is."""
    return 0.5 / math.sqrt(count)


def _items(task: Task) -> str:
    """Items of a task that are scored, and how exactly a score is known by them."""
    counts = [len(task.items(split)) for split in SCORED]
    exact = " and ".join(f"±{_error(count):.2f}" for count in counts)
    return f"{counts[0]} search and {counts[1]} test items, a score of 0.5 is known to {exact}"


def _more_items(task: Task, settings: TaskSettings) -> str | None:
    """What would make a task's scores exact enough to tell models apart; None: they are."""
    count, wanted = len(task.items("search")), round((0.5 / EXACT) ** 2)
    if count >= wanted:
        return None
    key = f"tasks.{task.name}"
    if getattr(settings, "search_items", 0) == count:
        way = f"raise {key}.search_items, of {count} now"
    elif isinstance(settings, OwnTaskSettings):
        share = settings.split.search
        way = f"{math.ceil(100 * wanted / share)} lines or documents have them at search {share} %"
        if settings.split.train:
            way += f"; {key}.split={{search: 60, test: 40, train: 0}} leaves none to training"
    else:
        way = "give the task more items"
    return f"for ±{EXACT:g} it takes {wanted} search items: {way}"


REFUSED = "refused"
"""Name of the fact that a search would be refused, in a report that goes on to say why."""


def score_facts(evaluator: Evaluator, fidelity: str) -> dict[str, str]:
    """Whether it is worth merging at all: scores of sources and uniform blends, and task vectors.

    Args:
        evaluator: Of the run's tasks; its members' sources are scored on the search split.
        fidelity: How they are.

    Returns:
        Readable facts by name, among them `REFUSED` if no expert can do one of the tasks.
    """
    pool, objectives = evaluator.members.pool, evaluator.objectives
    names = (*pool.expert_names, pool.base_name)
    candidates = {
        name: Candidate.whole(name, evaluator.members.num_layers(name)) for name in names
    } | reference_candidates(pool)
    scored = dict(
        zip(candidates, evaluator.evaluate([*candidates.values()], fidelity=fidelity), strict=True)
    )
    facts: dict[str, str] = {}
    for name, one in scored.items():
        said = [
            _score(task, one, place, evaluator.minimised) for place, task in enumerate(objectives)
        ]
        facts[f"score of {name}"] = ", ".join(said) if one.ok else f"FAILED: {one.reason}"
    experts = {name: scored[name].vector for name in pool.expert_names if scored[name].ok}
    for task, own in ((name, experts[name]) for name in experts if name in objectives):
        if own[objectives.index(task)] <= 0:
            facts[f"expert {task}"] = "scores 0 on its own task: look at its answers first"
    if experts:
        best = np.max([*experts.values()], axis=0)
        try:
            refuse_impossible(objectives, best)
        except InputError as error:
            facts[REFUSED] = str(error)
        else:
            facts["worth merging"] = _worth(scored, experts, best)
    else:
        facts[REFUSED] = "no expert can be scored"
    if len(pool.mergeable) > 1:
        facts.update(described(mergeability(evaluator.members.task_vectors)))
    return facts


def _score(
    task: str, evaluation: Evaluation, place: int, minimised: Mapping[str, Minimised]
) -> str:
    if not evaluation.ok:
        return ""
    score, error = evaluation.scores[place], evaluation.standard_errors[place]
    if task in minimised:
        return f"{task} ↓ {minimised[task].cost(score):.3f} ± {minimised[task].worst * error:.3f}"
    return f"{task} {score:.3f} ± {error:.3f}"


def _worth(
    scored: Mapping[str, Evaluation], experts: Mapping[str, np.ndarray], best: np.ndarray
) -> str:
    """What the reference merges say of it: shares of the best experts' scores kept everywhere."""
    kept = {name: float((vector / best).min()) for name, vector in experts.items()}
    expert = max(kept, key=lambda name: kept[name])
    blends = {
        name: float((one.vector / best).min())
        for name, one in scored.items()
        if name.startswith("uniform ") and one.ok
    }
    begin = (
        f"the most even expert, {expert}, keeps {kept[expert]:.0%} of the best score on every task"
    )
    if not blends:
        return begin
    blend = max(blends, key=lambda name: blends[name])
    return f"{begin}; the blend {blend}, which nobody searched for, {blends[blend]:.0%}"


def check_report(settings: RunSettings, score: bool = False) -> dict[str, Any]:
    """Load and compare the sources, encode the items, count what a search would do.

    No candidate is scored, unless asked. Everything a search would refuse before its first
    evaluation is refused here.

    Args:
        settings: The run.
        score: Whether to score the sources and the reference merges, too; see `score_facts`.

    Returns:
        Readable facts by name.

    Raises:
        InputError: The sources do not fit together, an item does not fit the models, or the
            configuration cannot work.
    """
    check_settings(settings)
    pool = load_pool(settings, writable=bool(settings.export.prefer))
    if build_searcher(settings).merges:
        pool.check_mergeable(pool.expert_names)
    built = {
        name: build_tasks(some, settings.evaluation, pool.tokenizer, pool.origins.values())
        for name, some in (("objectives", settings.objectives), ("watched", settings.watched))
        if some
    }
    tasks, watched = built["objectives"], built.get("watched", ())
    check_isolation([*tasks, *watched])
    members = build_members(settings, pool, tasks)
    pool = members.pool
    calibration = members.calibration
    limits = path_limits(settings, members)
    trained = {bool(task.items("train")) for task in tasks}
    fitted = " and ".join({True: "training", False: "search"}[one] for one in sorted(trained))
    tokens = dict.fromkeys(SCORED, 0)
    for task in (*tasks, *watched):
        for split in SCORED if task in tasks else ("test",):
            request = Request.build(
                task, split, pool.tokenizer, 1, max_positions=pool.max_positions
            )
            tokens[split] += sum(sum(ids.shape) for ids in request.encoded)
    advices = {task.name: _more_items(task, settings.tasks[task.name]) for task in tasks}
    model = pool.model(pool.base_name)
    parameters = sum(p.numel() for p in model.parameters())
    # Layers are a share of the parameters, and a longer path runs more of them.
    longest = max(1.0, limits.max_length / pool.num_layers)
    operations = 2.0 * parameters * longest * tokens["search"]
    rate = matmul_rate(pool.dtype, pool.device)
    level = settings.search.parameter if isinstance(settings.search, MergingSettings) else None
    held = level.members if level is not None else 1
    parts = peak_memory(pool, held, settings.pool.merged_mb * 2**20)
    export = int(sum(p.nbytes for p in model.parameters()) * longest)
    front = expected_front(settings.budget, len(tasks))
    root, free = free_disk(Path(settings.output or settings.root))
    where = "the GPU has" if pool.device.startswith("cuda") else "the machine has"
    facts = {
        "compatible": f"yes: {', '.join(pool.names)}",
        "vocabulary": f"one for all: {len(pool.tokenizer)} tokens",
        **{f"source note {number}": note for number, note in enumerate(pool.notes, start=1)},
        "alignment": settings.paths.alignment
        + ("" if calibration is None else f", fitted on {int(calibration.attention_mask.sum())} ")
        + ("" if calibration is None else f"tokens of {fitted} items"),
        "layers": pool.num_layers,
        "paths": f"{limits.min_length} to {limits.max_length} layers, {limits.actions}, "
        f"stem {limits.stem}",
        "parameters": f"{parameters:,} in each source",
        "precision": f"{settings.pool.dtype} on {settings.pool.device}",
        "tasks": ", ".join(f"{task.name} ({_items(task)})" for task in tasks),
        **({"watched": ", ".join(f"{t.name} ({_items(t)})" for t in watched)} if watched else {}),
        **{f"{name} items": advice for name, advice in advices.items() if advice is not None},
        **{
            f"{task.name} {subject}": note
            for task in tasks
            for subject, note in task.notes().items()
        },
        "tokens": ", ".join(f"{count:,} on {split}" for split, count in tokens.items())
        + ": prompts and references of all tasks; every item fits the models",
        "evaluations": settings.budget,
        "memory": f"{sum(parts.values()) / GIB:.2f} GiB at most ("
        + ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        + f") beside activations; {against(sum(parts.values()), memory_of(pool.device), where)}",
        "disk": f"{export / GIB:.3f} GiB for each exported model, "
        f"{export * front / GIB:.2f} GiB for a front of about {front}; "
        + against(export, free, f"free in {root}:"),
        "time": f"about {operations / rate:.2g} s for an evaluation: 2 x parameters x tokens / "
        f"{rate / 1e9:.0f} GFLOP/s, the rate of a matrix product measured here; {settings.budget} "
        f"take {settings.budget * operations / rate:.0f} s of forward passes; generation, small "
        "layers and agent training come on top, several times that for tiny models",
    }
    if score:
        store = EvaluationStore(settings.evaluation.store or ":memory:")
        evaluator = build_evaluator(settings, members, store, tasks)
        try:
            facts |= score_facts(evaluator, settings.evaluation.fidelity)
        finally:
            evaluator.close()
    return facts

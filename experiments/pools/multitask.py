"""What merging is held against: one model fine-tuned on all tasks of a pool.

It starts from the base and takes as many optimiser steps as the pool's experts took together, on
equal parts of what an expert of each task is trained on. It is no search: its front is its one
model at every budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.pools.pools import ZOO, Pool
from experiments.pools.results import Front, Key
from experiments.pools.search import solved
from experiments.pools.settings import EXPERTS, BenchSettings, Expert, bench_tasks
from experiments.pools.train import BASE, MODELS, tokenizer
from experiments.zoo.corpus import Mixture
from experiments.zoo.publish import publish
from experiments.zoo.settings import ZooSettings, zoo_tasks
from experiments.zoo.tokenizer import build_tokenizer
from experiments.zoo.train import PACKAGED, exact_match_meter
from experiments.zoo.training import Schedule, train
from hm3rl import api
from hm3rl.config.words import quoted
from hm3rl.events import NullLogger
from hm3rl.objectives.indicators import hypervolume
from hm3rl.run.build import build_problem
from hm3rl.run.conclusion import experts
from hm3rl.tasks.synthetic_text import Level, SyntheticTask

NAME = "multitask"

SEED = 100
"""Its data have seeds that no expert has: this one and the run's."""

EVERY = 200
"""Steps between two savings of an unfinished training."""


def schedule(pool: Pool) -> Schedule:
    """An expert's schedule, with the steps of all experts of the pool."""
    if pool.name == ZOO:
        each = [ZooSettings().schedule(name) for name in pool.experts]
        return replace(each[0], steps=sum(one.steps for one in each))
    steps = sum(EXPERTS[name].steps for name in pool.experts)
    return replace(Expert(pool.tasks[0]).schedule, steps=steps)


def text(pool: Pool) -> dict[tuple[str, Level], float]:
    """Its mixture: the mean of the mixtures of an expert of each task."""
    if pool.name == ZOO:
        parts = [ZooSettings().shares(name) for name in pool.experts]
    else:
        parts = [BenchSettings().expert_text(Expert(task)) for task in pool.tasks]
    found: dict[tuple[str, Level], float] = {}
    for part in parts:
        for name, share in part.items():
            found[name] = found.get(name, 0.0) + share / len(parts)
    return found


def trained(pool: Pool, seed: int, folder: Path, models: Path = MODELS) -> Path:
    """Train the model of a pool, or go on with it; a finished one stays.

    Args:
        pool: The pool.
        seed: Seed of its data.
        folder: Folder of the training state and the checkpoint.
        models: Folder of the bench's models.

    Returns:
        Folder of the checkpoint.
    """
    target = folder / NAME
    if target.is_dir():
        return target
    tasks, words, base = _kin(pool, models)
    how = schedule(pool)
    start = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    mixture = Mixture(tasks, text(pool), words, how.pool, SEED + seed)
    meter = exact_match_meter({name: tasks[name] for name in pool.tasks}, words)
    model, log = train(start, mixture, how, folder / f"{NAME}.pt", meter, every=EVERY)
    publish(model, words, log, f"# {NAME}\n\nTrained on {', '.join(pool.tasks)}.\n", target)
    return target


def _kin(
    pool: Pool, models: Path
) -> tuple[Mapping[str, SyntheticTask], PreTrainedTokenizerFast, Path]:
    """Tasks, tokenizer and base of a pool."""
    if pool.name == ZOO:
        tasks = zoo_tasks()
        return tasks, build_tokenizer(tuple(tasks.values())), PACKAGED / BASE
    return bench_tasks(), tokenizer(), models / BASE


def run(
    key: Key,
    pool: Pool,
    words: Sequence[str],
    budgets: Sequence[int],
    folder: Path,
    store: Path,
    commit: str,
) -> list[Front]:
    """Train the model of a pool and score it.

    Args:
        key: Pool, method and seed.
        pool: The pool.
        words: Hydra overrides of the pool.
        budgets: Budgets whose rows are wanted; all are the same.
        folder: Run folder.
        store: Evaluations of all searches on the pool.
        commit: Code that runs.

    Returns:
        A front for each budget.
    """
    begun = time.perf_counter()
    place = quoted(str(trained(pool, key.seed, folder)))
    seconds = {"training": round(time.perf_counter() - begun, 1)}
    store.parent.mkdir(parents=True, exist_ok=True)
    own = [f"budget={key.budget}", f"evaluation.store={store}", f"+pool.experts.{NAME}={place}"]
    problem = build_problem(api.settings(*words, *own), store, NullLogger())
    try:
        *asked, model = experts(problem)
        search, test = (problem.rescore([*asked, model], split) for split in ("search", "test"))
        one = problem.key(model)
    finally:
        problem.evaluator.close()
        problem.evaluator.store.close()
    if failed := [found.reason for found in (*search, *test) if not found.ok]:
        raise RuntimeError(f"{key}: not to be scored: {failed[0]}")
    points = np.array([found.vector for found in search])
    about = {"steps": schedule(pool).steps, "seconds": seconds}
    return [
        Front(
            key=key._replace(budget=budget),
            commit=commit,
            experts=pool.experts,
            models=(one,),
            solved=solved(key, problem.objectives, test),
            search=points,
            volume=hypervolume(points / points[: len(asked)].max(axis=0)),
            about=about,
        )
        for budget in budgets
    ]

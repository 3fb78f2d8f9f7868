"""From a configuration to a problem and a searcher.

Everything a user can get wrong fails here, before any long work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from hm3rl import registry
from hm3rl.agents.base import Agent
from hm3rl.config.compose import from_plain, to_dict
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import MergingSettings
from hm3rl.config.tasks import (
    AnswerLengthSettings,
    OwnTaskSettings,
    PathLengthSettings,
    check_split,
)
from hm3rl.config.values import check_values
from hm3rl.errors import InputError
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.costs import build_costs
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import FULL
from hm3rl.evaluation.schema import check_file
from hm3rl.evaluation.sharing import Sharing
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.events import RunLogger
from hm3rl.interop import minari_dataset
from hm3rl.matching.pool import UNITS, match_pool
from hm3rl.models.pool import ModelPool
from hm3rl.objectives.preferences import parse_preference
from hm3rl.paths.alignment_kind import NO_ALIGNMENT
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.members import MemberSet
from hm3rl.run.calibration import MATCHING_ITEMS, calibration_batch
from hm3rl.search.base import Searcher
from hm3rl.search.parameter_level import check_level
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import build_tasks
from hm3rl.tasks.isolation import check_isolation

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PER_CORE = 4
"""Most processes or threads of a kind for each core of this machine."""


def _check_processes(settings: RunSettings) -> None:
    """Refuse more processes and threads than this machine can run.

    Raises:
        InputError: Names the key, its value and the most that makes sense.
    """
    evaluation, cores = settings.evaluation, len(os.sched_getaffinity(0))
    processes = {"threads": settings.threads, "program_workers": evaluation.program_workers}
    if evaluation.backend == "ray" and not evaluation.ray_address:  # a cluster says what it has
        processes["workers"] = evaluation.workers
    for name, count in processes.items():
        if count > PER_CORE * cores:
            key = name if name == "threads" else f"evaluation.{name}"
            raise InputError(
                f"{key}={count} on a machine with {cores} cores",
                f"give {PER_CORE * cores} at most; more than {cores} gain nothing",
            )


def path_limits(settings: RunSettings, members: MemberSet) -> PathLimits:
    """Path limits of a configuration.

    Raises:
        InputError: A stem that is no member, or lengths that no path can have.
    """
    pool, paths = members.pool, settings.paths
    depth = pool.num_layers
    low, high = paths.min_length or depth, paths.max_length or depth
    if paths.actions == "same_depth" and (low, high) != (depth, depth):
        raise InputError(
            f"paths.min_length={low} and paths.max_length={high} with same-depth paths, which have "
            f"{depth} layers",
            "use paths=any, or leave the lengths at 0",
        )
    counted = [
        name for name, task in settings.tasks.items() if isinstance(task, PathLengthSettings)
    ]
    if counted and low == high:
        raise InputError(
            f"the objective {counted[0]} minimises path length, and all paths have {low} layers",
            "use paths=any with paths.min_length below paths.max_length, or drop the objective",
        )
    if low > high:
        raise InputError(
            f"paths.min_length={low} is above paths.max_length={high}", "give min_length <= max"
        )
    offered = list(pool.expert_names)
    if not build_searcher(settings).merges:
        offered.append(pool.base_name)
    if paths.stem != "free" and paths.stem not in offered:
        raise InputError(
            f"paths.stem={paths.stem} is no member of this search",
            f"use free, or one of {', '.join(offered)}",
        )
    return PathLimits(
        min_length=low,
        max_length=high,
        stem=paths.stem,
        actions="any" if paths.actions == "any" else "same_depth",
        alignment=members.alignment(paths.alignment),
    )


def check_settings(settings: RunSettings, began: bool = False) -> None:
    """Refuse what cannot work, without loading anything.

    Args:
        settings: The run.
        began: Whether it began before, maybe on another machine. What only its start needed is
            then passed over: cores, a cluster, another run's agent.

    Raises:
        InputError: Names the key and the way out.
    """
    check_values(settings)
    searcher = build_searcher(settings)
    agent: type[Agent] = registry.find("agent", settings.agent.name).load()
    agent.check(settings, began)
    if settings.agent.offline_data and not began:
        minari_dataset.read(minari_dataset.dataset_id(settings.agent.offline_data))
    registry.find("surrogate", settings.surrogate.name).check_packages()
    if settings.logging.weights and not settings.export.prefer:
        raise InputError(
            "logging.weights=true, but no model is exported at the end",
            "name its preference, for example +export.prefer.math=1, or log no weights",
        )
    if settings.evaluation.backend == "ray" and find_spec("ray") is None:
        raise InputError(
            "evaluation.backend=ray, but Ray is not installed",
            "pip install 'hm3rl[ray]', or use evaluation/backend=in_process",
        )
    if settings.evaluation.backend == "ray" and settings.evaluation.ray_address and not began:
        # Imported here: a second that a run without Ray need not pay.
        from hm3rl.evaluation.backends.ray_pool import check_address

        check_address(settings.evaluation.ray_address)
    if settings.evaluation.store:
        check_file(Path(settings.evaluation.store))
    if isinstance(settings.search, MergingSettings):
        check_level(settings.search.parameter)
    if not settings.pool.experts:
        raise InputError("pool.experts is empty", "name at least one expert: pool.experts.NAME=DIR")
    if not settings.objectives:
        raise InputError("no tasks", "choose a task group, for example tasks=zoo")
    for name, task in settings.tasks.items():
        registry.find("task", task.kind).check_packages()
        if isinstance(task, OwnTaskSettings):
            check_split(name, task.split)
        if isinstance(task, AnswerLengthSettings) and settings.evaluation.fidelity != FULL:
            raise InputError(
                f"evaluation.fidelity={settings.evaluation.fidelity} with the objective {name}, "
                "and a proxy decodes no answers",
                f"use evaluation.fidelity={FULL}, or drop the objective",
            )
        if name in settings.watched and isinstance(task, PathLengthSettings):
            raise InputError(
                f"tasks.{name}.role=watch: the length of every path stands in front.csv",
                f"drop it: ~tasks.{name}",
            )
    if not began:
        _check_processes(settings)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", settings.pool.device):
        raise InputError(f"unknown pool.device {settings.pool.device!r}", "use cpu, cuda or cuda:N")
    if settings.pool.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"pool.device={settings.pool.device}, but torch sees no CUDA device",
            "use pool.device=cpu, or install a CUDA build of torch",
        )
    if settings.budget < searcher.phases:
        raise InputError(
            f"budget={settings.budget} is below the {searcher.phases} phases of {searcher.name}",
            f"give budget={searcher.phases} at least; 100 and more are useful",
        )
    if settings.export.prefer:
        parse_preference(settings.export.prefer, list(settings.objectives))


def load_pool(settings: RunSettings, writable: bool = False) -> ModelPool:
    """Load and check the source models of a configuration.

    Args:
        settings: The run.
        writable: Whether a model will be exported: a type that cannot be is refused.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return ModelPool.load(
        settings.pool.base,
        settings.pool.experts,
        dtype=DTYPES[settings.pool.dtype],
        device=settings.pool.device,
        architecture=settings.pool.architecture,
        vocabulary=settings.pool.vocabulary,
        tokenizer=settings.pool.tokenizer,
        writable=writable,
        adapters=settings.pool.smollm2_adapters,
    )


def build_members(settings: RunSettings, pool: ModelPool, tasks: Sequence[Task]) -> MemberSet:
    """The members of a configuration.

    Args:
        settings: The run.
        pool: The sources as they were read; `members.pool` has their units matched if asked for.
        tasks: Lend a calibration batch where units are matched or paths are aligned.
    """
    batch = partial(calibration_batch, tasks, pool.tokenizer, device=settings.pool.device)
    if settings.pool.match == UNITS:
        gamma = settings.pool.match_gamma
        pool = match_pool(pool, gamma, batch(items=MATCHING_ITEMS) if gamma < 1 else None)
    aligned = settings.paths.alignment != NO_ALIGNMENT
    return MemberSet(
        pool,
        cache_bytes=settings.pool.merged_mb * 2**20,
        calibration=batch(items=settings.paths.alignment_items) if aligned else None,
    )


def build_evaluator(
    settings: RunSettings, members: MemberSet, store: EvaluationStore, tasks: Sequence[Task]
) -> Evaluator:
    """The evaluator of a configuration, with the backend it asks for."""
    local = _scoring_backend(settings, members, tasks)
    costs = build_costs(settings.objectives, members.pool.num_layers)
    if settings.evaluation.backend == "in_process":
        return Evaluator(members, tasks, store, backend=local, costs=costs)
    # Imported here: a second that a run without Ray need not pay.
    from hm3rl.evaluation.backends.ray_pool import RayBackend

    pool = RayBackend(
        local,
        partial(load_scoring_backend, to_dict(settings)),
        settings.evaluation.workers,
        settings.threads,
        settings.evaluation.ray_address,
    )
    return Evaluator(members, tasks, store, backend=pool, costs=costs)


def load_scoring_backend(plain: dict[str, Any]) -> InProcessBackend:
    """Load the sources in a worker, where the only GPU it sees, if any, is the first.

    Args:
        plain: The settings as plain containers: options of a plugin's part have a class that the
            worker knows only when it has loaded the plugin.
    """
    settings = from_plain(plain)
    device = "cuda" if settings.pool.device.startswith("cuda") else settings.pool.device
    settings = replace(settings, pool=replace(settings.pool, device=device))
    pool = load_pool(settings)
    tasks = build_tasks(
        settings.objectives, settings.evaluation, pool.tokenizer, pool.origins.values()
    )
    check_isolation(tasks)
    members = build_members(settings, pool, tasks)
    return _scoring_backend(settings, members, tasks)


def _scoring_backend(
    settings: RunSettings, members: MemberSet, tasks: Sequence[Task]
) -> InProcessBackend:
    evaluation = settings.evaluation
    sharing = Sharing(evaluation.activation_mb * 2**20, evaluation.join)
    return InProcessBackend(members, tasks, evaluation.batch_size, evaluation.together, sharing)


def build_problem(
    settings: RunSettings,
    store_path: Path,
    logger: RunLogger,
    keep: bool = True,
    began: bool = False,
) -> MergeProblem:
    """Pool, members, tasks, evaluator and budget of a configuration.

    Args:
        settings: The run.
        store_path: SQLite file of stored evaluations (used unless the configuration names one).
        logger: Hears every evaluation.
        keep: Whether what is scored must be stored; without, the run's folder may be read-only.
        began: See `check_settings`.

    Returns:
        The problem; `prepare()` has not been called yet.
    """
    check_settings(settings, began)
    pool = load_pool(settings, writable=bool(settings.export.prefer) and not began)
    if build_searcher(settings).merges:
        pool.check_mergeable(pool.expert_names)
    tasks = build_tasks(
        settings.objectives, settings.evaluation, pool.tokenizer, pool.origins.values()
    )
    members = build_members(settings, pool, tasks)
    limits = path_limits(settings, members)
    make_store = EvaluationStore if keep else EvaluationStore.of_finished_run
    store = make_store(settings.evaluation.store or store_path)
    evaluator = build_evaluator(settings, members, store, tasks)
    if not settings.evaluation.store:
        evaluator.adopt_older_conditions()
    return MergeProblem(
        members,
        evaluator,
        limits,
        budget=settings.budget,
        logger=logger,
        proxy_cost=settings.evaluation.proxy_cost,
        fidelity=settings.evaluation.fidelity,
    )


def build_searcher(settings: RunSettings) -> Searcher:
    """The searcher of a configuration."""
    make: type[Searcher[Any]] = registry.find("searcher", settings.search.name).load()
    return make(settings)

"""From a configuration to a problem and a searcher.

Everything a user can get wrong fails here, before any long work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from hm3rl.agents.checkpoint import stored_sizes
from hm3rl.agents.transfer import agent_file
from hm3rl.config.competitors import LEVELS, SPACES
from hm3rl.config.schema import RunSettings
from hm3rl.config.validate import check_options
from hm3rl.config.values import check_values
from hm3rl.errors import InputError
from hm3rl.evaluation.backends.in_process import InProcessBackend
from hm3rl.evaluation.costs import build_costs
from hm3rl.evaluation.evaluator import Evaluator
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.schema import check_file
from hm3rl.evaluation.sharing import JOINS, Sharing
from hm3rl.evaluation.store import EvaluationStore
from hm3rl.events import RunLogger
from hm3rl.merging.operators import OPERATORS
from hm3rl.merging.recipe import OPERATOR_TRAITS
from hm3rl.models.pool import ARCHITECTURES, ModelPool
from hm3rl.models.vocabulary import VOCABULARIES
from hm3rl.objectives.preferences import parse_preference
from hm3rl.paths.alignment_kind import ALIGNMENTS, NO_ALIGNMENT
from hm3rl.paths.limits import PathLimits
from hm3rl.paths.members import MemberSet
from hm3rl.plugins import load_plugins
from hm3rl.run.calibration import calibration_batch
from hm3rl.search.base import Searcher
from hm3rl.search.competitors.random import RandomSearch
from hm3rl.search.hm3 import HM3
from hm3rl.search.level_sampler import SAMPLERS, SHARE
from hm3rl.search.parameter_only import ParameterOnly
from hm3rl.tasks.base import Task
from hm3rl.tasks.build import PATH_LENGTH, build_tasks, check_task_settings, refuse_unread
from hm3rl.tasks.isolation import ISOLATIONS, check_isolation

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PER_CORE = 4
"""Most processes or threads of a kind for each core of this machine."""


def _competitor(module: str, name: str) -> Callable[[RunSettings], Searcher]:
    """A searcher whose module is imported when it is chosen, since it may need an extra."""

    def make(settings: RunSettings) -> Searcher:
        searcher = getattr(import_module(f"hm3rl.search.{module}"), name)
        made: Searcher = searcher(settings.search, settings.seed, settings.planned_budget)
        return made

    return make


SEARCHERS: dict[str, Callable[[RunSettings], Searcher]] = {
    "hm3": lambda s: HM3(s.search, s.agent, s.seed, s.planned_budget),
    "architecture_only": lambda s: HM3(
        s.search, s.agent, s.seed, s.planned_budget, parameter_level=False
    ),
    "no_offline": lambda s: HM3(s.search, s.agent, s.seed, s.planned_budget, offline_phase=False),
    "parameter_only": lambda s: ParameterOnly(s.search, s.seed, s.planned_budget),
    "random": lambda s: RandomSearch(s.search, s.seed, s.planned_budget),
    "nsga2": _competitor("competitors.nsga2", "Nsga"),
    "nsga3": _competitor("competitors.nsga2", "Nsga"),
    "de": _competitor("competitors.de", "DifferentialEvolution"),
    "cmaes": _competitor("competitors.cmaes", "CmaEs"),
    "grid": _competitor("competitors.grid", "Grid"),
    "cmaes_dfs": _competitor("competitors.cmaes_dfs", "DataFlow"),
    "rmm": _competitor("competitors.rmm", "RMM"),
    "depth_wise": _competitor("competitors.depth_wise", "DepthWise"),
    "map": _competitor("competitors.map", "Map"),
    "mm_mo": _competitor("competitors.mm_mo", "MmMo"),
}

PACKAGES: dict[str, tuple[str, ...]] = {
    "nsga2": ("pymoo",),
    "nsga3": ("pymoo",),
    "de": ("pymoo",),
    "cmaes": ("cma",),
    "cmaes_dfs": ("cma",),
    "depth_wise": ("sklearn",),
    "map": ("pymoo",),
    "mm_mo": ("botorch",),
}
"""Packages of the extra `baselines` by searcher; they are imported only when it is built."""


def missing_packages(name: str) -> list[str]:
    """Packages that a searcher, or a sampler of the parameter level, needs and nobody installed."""
    return [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]


def register_searcher(name: str, factory: Callable[[RunSettings], Searcher]) -> None:
    """Add a searcher of one's own; `search.name=NAME` then selects it.

    Args:
        name: Its name.
        factory: Makes one from the settings of a run.

    Raises:
        InputError: The name is taken.
    """
    if name in SEARCHERS:
        raise InputError(f"there is a searcher {name!r} already", "choose another name")
    SEARCHERS[name] = factory


BUILT_IN = frozenset(SEARCHERS)

OVER_PATHS = ("random", "nsga2", "nsga3", "cmaes_dfs", "rmm", "depth_wise")
"""Competitors that heed `search.levels`; nsga2 and nsga3 with `search.space=paths`."""


def stitches(settings: RunSettings) -> bool:
    """Whether a search merges nothing: only then may experts be of kinds that cannot be merged."""
    search = settings.search
    # RMM's paths go through merges of all experts even without a parameter level.
    return search.name == "architecture_only" or (search.levels == "paths" and search.name != "rmm")


def _check_levels(settings: RunSettings) -> None:
    """Refuse levels and spaces that a searcher would not heed; plugins decide for themselves.

    Raises:
        InputError: Names the key and what does what was meant.
    """
    search = settings.search
    evolves = search.name in ("nsga2", "nsga3")
    if search.space == "paths" and search.name in BUILT_IN and not evolves:
        raise InputError(
            f"search.space=paths with search.name={search.name}, which has one space only",
            "leave it out, or choose search=nsga2_paths or nsga3_paths",
        )
    over_paths = search.name in OVER_PATHS and (not evolves or search.space == "paths")
    if search.levels == "paths" and search.name in BUILT_IN and not over_paths:
        raise InputError(
            f"search.levels=paths with search.name={search.name}, which it means nothing to",
            "HM3 over the sources alone is search=architecture_only; nsga2 and nsga3 need "
            "search.space=paths",
        )


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value!r}", f"one of {', '.join(known)}")


def _check_ranges(settings: RunSettings) -> None:
    """Refuse values that are none of their field's, and ranges without anything in them.

    Raises:
        InputError: Names the key, its value and its range.
    """
    check_values(settings)
    parameter = settings.search.parameter
    for least, most in (("scale_min", "scale_max"), ("density_min", "density_max")):
        low, high = getattr(parameter, least), getattr(parameter, most)
        if low > high:
            raise InputError(
                f"search.parameter.{least}={low} is above search.parameter.{most}={high}",
                f"give {least} <= {most}",
            )
    for key, operators in (
        ("parameter", parameter.operators),
        ("rmm", settings.search.rmm.operators),
    ):
        if not operators:
            raise InputError(
                f"search.{key}.operators is empty", f"give one or more of {', '.join(OPERATORS)}"
            )


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
    counted = [name for name, task in settings.tasks.items() if task.kind == PATH_LENGTH]
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
    if stitches(settings):
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
        began: Whether it began before, maybe under an older version or on another machine. A key
            of a task that nothing reads is then passed over, since it was scored without; so is
            what only its start needed: cores, a cluster, another run's agent.

    Raises:
        InputError: Names the key and the way out.
    """
    _check_ranges(settings)
    _one_of("search.name", settings.search.name, tuple(SEARCHERS))
    for key, name in (
        ("search.name", settings.search.name),
        ("search.parameter.sampler", settings.search.parameter.sampler),
    ):
        if missing := missing_packages(name):
            raise InputError(
                f"{key}={name} needs {', '.join(missing)}, which is not installed",
                "pip install 'hm3rl[baselines]', or choose another",
            )
    _one_of("search.space", settings.search.space, SPACES)
    _one_of("search.levels", settings.search.levels, LEVELS)
    _check_levels(settings)
    _one_of("pool.dtype", settings.pool.dtype, tuple(DTYPES))
    _one_of("pool.architecture", settings.pool.architecture, ARCHITECTURES)
    _one_of("pool.vocabulary", settings.pool.vocabulary, VOCABULARIES)
    _one_of("search.parameter.source", settings.search.parameter.source, ("search", "preference"))
    _one_of("search.parameter.sampler", settings.search.parameter.sampler, SAMPLERS)
    _one_of("search.parameter.weights", settings.search.parameter.weights, ("simplex", "free"))
    _one_of("paths.actions", settings.paths.actions, ("same_depth", "any"))
    _one_of("paths.alignment", settings.paths.alignment, ALIGNMENTS)
    if settings.search.data_flow.scale_max > 1 and settings.paths.alignment != NO_ALIGNMENT:
        raise InputError(
            f"search.data_flow.scale_max={settings.search.data_flow.scale_max:g} with "
            f"paths.alignment={settings.paths.alignment}: scales are evolved or fitted, not both",
            "use paths.alignment=none, or scale_max=1",
        )
    _one_of("logging.wandb", settings.logging.wandb, ("auto", "online", "offline", "disabled"))
    if settings.logging.weights and not settings.export.prefer:
        raise InputError(
            "logging.weights=true, but no model is exported at the end",
            "name its preference, for example +export.prefer.math=1, or log no weights",
        )
    _one_of("evaluation.backend", settings.evaluation.backend, ("in_process", "ray"))
    _one_of("evaluation.fidelity", settings.evaluation.fidelity, ("full", "proxy"))
    _one_of("evaluation.join", settings.evaluation.join, JOINS)
    _one_of("evaluation.isolation", settings.evaluation.isolation, ISOLATIONS)
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
    for operator in settings.search.parameter.operators:
        _one_of("search.parameter.operators entry", operator, tuple(OPERATORS))
        traits = OPERATOR_TRAITS.get(operator)
        if settings.search.parameter.weights == "free" and traits and not traits.scale:
            raise InputError(
                f"search.parameter.weights=free with {operator}, which merges whole models",
                "use operators of task vectors, such as task_arithmetic, or weights=simplex",
            )
    for operator in settings.search.rmm.operators:
        _one_of("search.rmm.operators entry", operator, tuple(OPERATORS))
    check_options(settings.agent)
    if not settings.pool.experts:
        raise InputError("pool.experts is empty", "name at least one expert: pool.experts.NAME=DIR")
    if not settings.tasks:
        raise InputError("no tasks", "choose a task group, for example tasks=zoo")
    check_task_settings(settings.tasks)
    if not began:
        refuse_unread(settings.tasks)
        _check_processes(settings)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", settings.pool.device):
        raise InputError(f"unknown pool.device {settings.pool.device!r}", "use cpu, cuda or cuda:N")
    if settings.pool.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"pool.device={settings.pool.device}, but torch sees no CUDA device",
            "use pool.device=cpu, or install a CUDA build of torch",
        )
    p, o = settings.search.parameter_share, settings.search.offline_share
    p = SHARE if p is None else p
    if not p + o < 1:
        raise InputError(
            f"search.parameter_share={p} and search.offline_share={o} leave no share for a phase",
            "give positive shares whose sum is below 1",
        )
    if settings.agent.init_from and not began:
        stored_sizes(agent_file(settings.agent.init_from))
    _check_preferences(settings)
    phases = SEARCHERS[settings.search.name](settings).phases
    if settings.budget < phases:
        raise InputError(
            f"budget={settings.budget} is below the {phases} phases of {settings.search.name}",
            f"give budget={phases} at least; 100 and more are useful",
        )
    if settings.export.prefer:
        parse_preference(settings.export.prefer, list(settings.tasks))


def _check_preferences(settings: RunSettings) -> None:
    """Refuse what cannot be divided among the preferences that have nets or merges of their own.

    Raises:
        InputError: Names the keys.
    """
    preferences = settings.agent.preferences
    merging = settings.search.parameter.source == "preference"
    if merging and len(settings.pool.experts) != len(settings.tasks):
        raise InputError(
            f"search.parameter.source=preference with {len(settings.pool.experts)} experts and "
            f"{len(settings.tasks)} tasks: a preference must weigh each expert",
            "give one expert for each task, or use search.parameter.source=search",
        )
    phases = SEARCHERS[settings.search.name](settings).phases
    if (merging or settings.agent.per_preference) and settings.budget < preferences * phases:
        raise InputError(
            f"budget={settings.budget} for agent.preferences={preferences} and {phases} phases",
            f"give budget={preferences * phases} at least, or fewer preferences",
        )


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
    """The members of a configuration, with a calibration batch if their paths are aligned."""
    if settings.paths.alignment == NO_ALIGNMENT:
        return MemberSet(pool, cache_bytes=settings.pool.merged_mb * 2**20)
    batch = calibration_batch(
        tasks, pool.tokenizer, settings.paths.alignment_items, settings.pool.device
    )
    return MemberSet(pool, cache_bytes=settings.pool.merged_mb * 2**20, calibration=batch)


def build_evaluator(
    settings: RunSettings, members: MemberSet, store: EvaluationStore, tasks: Sequence[Task]
) -> Evaluator:
    """The evaluator of a configuration, with the backend it asks for."""
    local = _scoring_backend(settings, members, tasks)
    costs = build_costs(settings.tasks, members.pool.num_layers)
    if settings.evaluation.backend == "in_process":
        return Evaluator(members, tasks, store, backend=local, costs=costs)
    # Imported here: a second that a run without Ray need not pay.
    from hm3rl.evaluation.backends.ray_pool import RayBackend

    pool = RayBackend(
        local,
        partial(load_scoring_backend, settings),
        settings.evaluation.workers,
        settings.threads,
        settings.evaluation.ray_address,
    )
    return Evaluator(members, tasks, store, backend=pool, costs=costs)


def load_scoring_backend(settings: RunSettings) -> InProcessBackend:
    """Load the sources in a worker, where the only GPU it sees, if any, is the first."""
    device = "cuda" if settings.pool.device.startswith("cuda") else settings.pool.device
    settings = replace(settings, pool=replace(settings.pool, device=device))
    load_plugins(settings.plugins)
    pool = load_pool(settings)
    tasks = build_tasks(settings.tasks, settings.evaluation, pool.tokenizer, pool.origins.values())
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
    if not stitches(settings):
        pool.check_mergeable(pool.expert_names)
    tasks = build_tasks(settings.tasks, settings.evaluation, pool.tokenizer, pool.origins.values())
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
    return SEARCHERS[settings.search.name](settings)

"""The sources of a run that is opened again: where they lie now, and that they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hm3rl.config.schema import RunSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.events import RunLogger
from hm3rl.files import RunFolder
from hm3rl.models.names import BASE
from hm3rl.models.zoo import resolve_source
from hm3rl.run.build import build_problem


def moved(settings: RunSettings, sources: Mapping[str, str | Path]) -> RunSettings:
    """Settings of a run whose sources lie elsewhere now; `check_sources` proves that they do.

    Args:
        settings: The run's.
        sources: New folder (or "zoo:NAME") by name of the source; "base" is the base.

    Raises:
        InputError: The run has no source of that name.
    """
    pool = settings.pool
    known = (BASE, *pool.experts)
    for name, origin in sources.items():
        if name not in known:
            raise InputError(
                f"--sources {name}={origin}: the run has no source {name!r}",
                f"its sources: {', '.join(known)}",
            )
    given = {name: str(origin) for name, origin in sources.items()}
    experts = {name: given.get(name, origin) for name, origin in pool.experts.items()}
    return replace(settings, pool=replace(pool, base=given.get(BASE, pool.base), experts=experts))


def reopen_problem(
    settings: RunSettings, folder: RunFolder, logger: RunLogger, keep: bool = True
) -> MergeProblem:
    """The problem of a run that began before, with the very sources it began with.

    Args:
        settings: The run's.
        folder: Its folder.
        logger: Hears every evaluation.
        keep: Whether what is scored must be stored; without, a run can be read where nothing can be
            written.

    Returns:
        The problem; `prepare()` has not been called yet.

    Raises:
        InputError: A source is gone, or holds other weights than when the run began.
    """
    noted = folder.read_environment()["sources"]
    for name, origin in {BASE: settings.pool.base, **settings.pool.experts}.items():
        elsewhere = f"say where it lies now: --sources {name}=FOLDER"
        try:
            found = resolve_source(origin, settings.pool.smollm2_adapters).is_dir()
        except InputError as error:  # nothing has that name, or not any more
            raise InputError(error.what, f"{error.remedy}; or {elsewhere}") from None
        if not found:
            raise InputError(
                f"{name!r}, a source of the run in {folder.path}, is not at {origin}", elsewhere
            )
    problem = build_problem(settings, folder.store, logger, keep, began=True)
    changed = [name for name, found in problem.pool.hashes.items() if noted.get(name) != found]
    if changed:
        name = changed[0]
        problem.evaluator.close()
        raise InputError(
            f"the run in {folder.path} began with other weights of {', '.join(changed)}: "
            f"{problem.pool.origins[name]} holds {problem.pool.hashes[name][:16]}, the run had "
            f"{str(noted.get(name))[:16]} (content hashes)",
            f"restore them, or name the folder that holds them: --sources {name}=FOLDER; other "
            "weights need a new run",
        )
    return problem

"""A whole problem behind an environment: who steps it spends the budget of a run.

The run has a folder like any other: its configuration, store, archive and, once it is concluded,
front and summary; nothing tells it from a search but that its paths were chosen outside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from hm3rl.agents.separate import load_agent
from hm3rl.config.compose import compose_settings, settings_of_run
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import SearcherSettings
from hm3rl.envs.blend_path import BlendPathEnv
from hm3rl.envs.forms import BOX, is_blended
from hm3rl.envs.merge_path import MergePathEnv
from hm3rl.envs.path_env import PathEnv, PreferenceSampler, Unscored
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.files import RunFolder
from hm3rl.objectives.utility import Utility
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.plugins import load_plugins
from hm3rl.run.job import MakeLoggers, OpenRun, SearchResult, locked
from hm3rl.search import outside
from hm3rl.search.architecture_level import blend_space, path_scorer, path_space, to_candidate

LOG = logging.getLogger(__name__)

Config = RunSettings | str | Path | Sequence[str]
"""Settings; overrides, as one text or several; or the folder of a run."""


class EnvironmentRun:
    """The run behind an environment.

    Args:
        settings: The run.
        make_loggers: Gives the listeners.
        afterwards: Writes pictures and pages of a finished run into its folder.
        merged: Merged members that are offered besides the sources.
    """

    def __init__(
        self,
        settings: RunSettings,
        make_loggers: MakeLoggers,
        afterwards: Callable[[SearchResult], object],
        merged: Sequence[Candidate] = (),
    ) -> None:
        self._afterwards = afterwards
        self._stack = ExitStack()
        with ExitStack() as opening:
            folder = opening.enter_context(locked(settings))
            self._listening = opening.enter_context(ExitStack())
            self.open = self._listening.enter_context(OpenRun(settings, folder, make_loggers))
            for candidate in merged:
                self.problem.members.admit(candidate)
            self.problem.logger.phase(outside.OUTSIDE, settings.budget)
            self._score = path_scorer(self.problem, outside.OUTSIDE)
            self._clock = self.open.clock()
            self._stack = opening.pop_all()
        self.closed = False
        self._noted = False

    @property
    def problem(self) -> MergeProblem:
        """Budget, archive and what was evaluated so far."""
        return self.open.problem

    def score(self, paths: list[LayerPath]) -> list[np.ndarray | Unscored | None]:
        """Vectors f / z* of paths: known ones are free, new ones cost an evaluation each.

        Raises:
            InputError: The run was concluded or closed.
        """
        if self.closed:
            raise InputError("this environment's run is closed", "make another with gym.make")
        problem = self.problem
        new: dict[str, LayerPath] = {}
        keys = [problem.key(to_candidate(problem, path)) for path in paths]
        for key, path in zip(keys, paths, strict=True):
            if not problem.seen(to_candidate(problem, path)):
                new.setdefault(key, path)
        paid = dict(list(new.items())[: problem.remaining])
        if len(paid) < len(new) and not self._noted:
            self._noted = True
            LOG.warning(
                "the budget of %d evaluations is spent: episodes with new paths are truncated, "
                "without a reward",
                problem.budget,
            )
        if paid:
            self._score(list(paid.values()))
        found: list[np.ndarray | Unscored | None] = []
        for key in keys:
            if key in new and key not in paid:
                found.append(Unscored.BUDGET)
                continue
            evaluation = problem.evaluation(key)
            found.append(problem.normalise(evaluation.vector) if evaluation.ok else None)
        return found

    def conclude(self, env: PathEnv) -> RunFolder:
        """Score the front on the test split and write the folder of a finished run.

        Raises:
            InputError: Nothing was scored, or the run was closed.
        """
        if self.closed:
            raise InputError("this environment's run is closed", "make another with gym.make")
        if not self.problem.used:
            raise InputError(
                f"nothing was scored: {_told(env)}",
                "choose among action_masks(), or wrap the environment in "
                "hm3rl.envs.wrappers.LegalActions",
            )
        episodes = {"episodes": env.episodes, "episodes/illegal": env.illegal_episodes}
        self.problem.logger.metrics(self.problem.used, {k: float(v) for k, v in episodes.items()})
        result = self.open.conclude(outside.OUTSIDE, self._clock)
        self._listening.close()
        self._afterwards(result)
        self.closed = True
        self.problem.evaluator.store.close()
        self._stack.close()
        return result.folder

    def close(self, env: PathEnv) -> None:
        """Let go of folder and store; whoever did not conclude loses no evaluation."""
        if self.closed:
            return
        self.closed = True
        if env.episodes and not self.problem.used:
            LOG.warning("nothing was scored: %s", _told(env))
        self._stack.close()


def _told(env: PathEnv) -> str:
    return (
        f"of {env.episodes} episodes that ended, {env.illegal_episodes} did with an illegal action"
    )


class RunMixin(PathEnv):
    """What environments with a run behind them have in addition."""

    run: EnvironmentRun

    @property
    def problem(self) -> MergeProblem:
        """The problem: `archive`, `used`, `remaining`, `chosen_by`, `candidate(key)`."""
        return self.run.problem

    def report(self) -> RunFolder:
        """Conclude the run: front on both splits, summary and pages, for `hm3rl front`, `pick`, ...

        Raises:
            InputError: Nothing was scored, or the environment was closed.
        """
        return self.run.conclude(self)

    def close(self) -> None:
        """Close the run, concluded or not; its stored scores stay."""
        self.run.close(self)


class MemberRunEnv(RunMixin, MergePathEnv):
    """Paths through the members of a run."""


class BlendRunEnv(RunMixin, BlendPathEnv):
    """Paths through blends of a run's experts."""


def _settings(config: Config, budget: int | None) -> tuple[RunSettings, list[Candidate]]:
    """Settings of a new run, and the members that the run in `config` offered, if it is one."""
    merged: list[Candidate] = []
    if isinstance(config, RunSettings):
        settings = deepcopy(config)  # the folder, among others, is this run's own
    elif isinstance(config, Path) or (isinstance(config, str) and Path(config).is_dir()):
        folder = RunFolder.existing(config)
        settings = settings_of_run(folder)
        settings.evaluation.store = settings.evaluation.store or str(folder.store.resolve())
        settings.output, settings.planned_budget = "", 0
        merged = offered_members(folder, settings)
    else:
        settings = compose_settings([config] if isinstance(config, str) else list(config))
    settings.budget = settings.budget if budget is None else budget
    # What the search left behind as a model is not this run's to leave.
    settings.export.prefer = {}
    settings.plugins = [*dict.fromkeys([*settings.plugins, outside.__name__])]
    load_plugins(settings.plugins)
    settings.search = SearcherSettings(name=outside.OUTSIDE)
    return settings, merged


def offered_members(folder: RunFolder, settings: RunSettings) -> list[Candidate]:
    """Merged members that the agent of a finished run could choose from."""
    if not folder.agent.is_file():
        return []
    agent = load_agent(folder.agent, settings)
    if not isinstance(agent.space, PathSpace):
        return []
    recipes = {
        recipe.name: recipe
        for line in folder.read_archive()
        for recipe in Candidate.from_dict(line["candidate"]).recipes
    }
    depth = agent.space.depth
    names = [name for name in agent.space.members if name in recipes]
    return [Candidate.of(LayerPath.whole(name, depth), recipes.values()) for name in names]


def open_environment(
    config: Config,
    make_loggers: MakeLoggers,
    afterwards: Callable[[SearchResult], object],
    *,
    budget: int | None = None,
    form: str = "discrete",
    preference_sampler: PreferenceSampler | None = None,
) -> RunMixin:
    """An environment with a run behind it.

    Args:
        config: Settings, overrides, or the folder of a run, whose scores and members are taken
            over; the new run has a folder of its own.
        make_loggers: Gives the listeners.
        afterwards: See `EnvironmentRun`.
        budget: Evaluations; None: the configuration's.
        form: See `hm3rl.envs.forms`.
        preference_sampler: Draws a preference at reset; default is uniform on the simplex.

    Raises:
        InputError: Bad input, or the form does not go with the paths of the configuration.
    """
    blended = is_blended(form)
    settings, merged = _settings(config, budget)
    run = EnvironmentRun(settings, make_loggers, afterwards, [] if blended else merged)
    names = [one.path.stem for one in merged]
    parts = environment_parts(run.problem, settings, blended, names)
    parts |= {"score_paths": run.score, "preference_sampler": preference_sampler}
    env: RunMixin = BlendRunEnv(flat=form == BOX, **parts) if blended else MemberRunEnv(**parts)
    env.run = run
    return env


def environment_parts(
    problem: MergeProblem, settings: RunSettings, blended: bool, merged: Sequence[str]
) -> dict[str, Any]:
    """What a problem gives to `MergePathEnv` or `BlendPathEnv`; how paths are scored is left out.

    Args:
        problem: Its members include `merged`.
        settings: The run.
        blended: Whether layers are blends.
        merged: Members offered besides the sources, where layers are members'.
    """
    utility = Utility.of(settings.agent)
    parts: dict[str, Any] = {
        "objectives": len(problem.objectives),
        "scalarisation": utility.kind,
        "length_cost": utility.length_cost,
        "utopia": utility.utopia,
    }
    if blended:
        blends = blend_space(problem, settings.paths.blend_max)
        return {"blends": blends, "limits": problem.limits, **parts}
    names = [*problem.pool.expert_names, problem.pool.base_name, *merged]
    return {"space": path_space(problem, names), **parts}

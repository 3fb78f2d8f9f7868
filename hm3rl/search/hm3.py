"""HM3 (Zhou et al., arXiv 2409.18893): parameter level, offline phase, online phase.

The budget is split 20 % / 20 % / 60 % by default (the paper states none), with more for the
parameter level where 20 % is little for so many experts (`level_sampler.level_share`). Chosen on
the tiny zoo, 300 evaluations, seeds 10 and 11 (in no table), hypervolume on the search split: 0.830
and 0.842. With 6 merged members instead of 16, 0.805 and 0.799; with 10, 0.820 and 0.822; with 24,
0.826 and 0.836; with 6 and 40 % for the parameter level, 0.798 and 0.809; with 6 and an offline
share of 10 %, 0.806 and 0.802.

Its ablations are the same code with a level or a phase switched off, so that nothing else differs:

- `architecture_only`: no merged members, the experts and the base only (Table 6, row without the
  parameter level); the parameter level's share goes to the other two phases in proportion;
- `no_offline`: the offline share goes to the online phase, networks start untrained.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from hm3rl import registry
from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.base import Agent
from hm3rl.agents.encoder import PathShape
from hm3rl.agents.separate import SeparateAgents
from hm3rl.agents.transfer import check_start, network_sizes, start_from
from hm3rl.config.agents import HM3AgentSettings
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import HM3Settings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.preferences import sample_dirichlet
from hm3rl.search.architecture_level import (
    absorb_dataset,
    blend_space,
    describe_merges,
    known_outcomes,
    learn_merges,
    path_scorer,
    path_space,
    read_dataset,
)
from hm3rl.search.base import Searcher
from hm3rl.search.level_sampler import SHARE, level_share, sample_recipes
from hm3rl.search.parameter_level import select_members
from hm3rl.search.preference_members import merge_for


class Pool(NamedTuple):
    """What the parameter level hands to the architecture level.

    Attributes:
        offered: Members offered under each preference; the first entry is everybody's where one
            agent serves all preferences.
        preferences: The preferences that have networks, or merges, of their own, shape (N, K).
        others: Recipes that were scored but are not offered.
    """

    offered: list[list[str]]
    preferences: np.ndarray
    others: list[MergeRecipe]


class HM3(Searcher[HM3Settings]):
    """The two-level searcher, with whichever agent the run names.

    Shares refer to the planned budget; the online phase takes what differs.

    Attributes:
        parameter_level: Whether merged models join the pool.
        offline_phase: Whether the agent learns offline first.

    Args:
        settings: The run.
    """

    parameter_level = True
    offline_phase = True

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        if self._agent_class.walks_blends(settings):
            if not (self.parameter_level and self.offline_phase):
                raise InputError(
                    f"search={self.name} with agent={settings.agent.name}, which walks blends: "
                    "there are no levels or phases to be left out",
                    f"use search=hm3, or agent=hm3 with search={self.name}",
                )
            self._check_paths()
            return
        self.phases = 1 + int(self.parameter_level) + int(self.offline_phase)
        self.merges = self.parameter_level
        self._check_shares()

    @property
    def _own(self) -> HM3AgentSettings:
        """The agent's options, where it is HM3's; its defaults for another's."""
        agent = self.settings.agent
        return agent if isinstance(agent, HM3AgentSettings) else HM3AgentSettings()

    def _check_paths(self) -> None:
        """Refuse paths that an agent over blends does not walk.

        Raises:
            InputError: Names the key.
        """
        name, paths = self.settings.agent.name, self.settings.paths
        if paths.actions == "any":
            raise InputError(
                f"paths=any with agent={name}, which keeps every layer at its depth",
                "use paths=same_depth, or agent=hm3",
            )
        if paths.stem != "free":
            raise InputError(
                f"paths.stem={paths.stem} with agent={name}, which blends the stem, too",
                "leave it out, or use agent=hm3",
            )

    def _check_shares(self) -> None:
        """Refuse shares and preferences that a budget cannot be divided among.

        Raises:
            InputError: Names the keys.
        """
        options, settings = self.options, self.settings
        p = SHARE if options.parameter_share is None else options.parameter_share
        if not p + options.offline_share < 1:
            raise InputError(
                f"search.parameter_share={p} and search.offline_share={options.offline_share} "
                "leave no share for a phase",
                "give positive shares whose sum is below 1",
            )
        merging = options.parameter.source == "preference"
        if merging and len(settings.pool.experts) != len(settings.objectives):
            raise InputError(
                f"search.parameter.source=preference with {len(settings.pool.experts)} experts and "
                f"{len(settings.objectives)} tasks: a preference must weigh each expert",
                "give one expert for each task, or use search.parameter.source=search",
            )
        least = self._own.preferences * self.phases
        if (merging or self._own.per_preference) and settings.budget < least:
            raise InputError(
                f"budget={settings.budget} for agent.preferences={self._own.preferences} and "
                f"{self.phases} phases",
                f"give budget={least} at least, or fewer preferences",
            )

    def split(self, budget: int, experts: int) -> tuple[int, int, int]:
        """Divide a budget among the phases.

        Args:
            budget: Evaluations, at least the number of phases.
            experts: How many there are to merge.

        Returns:
            Evaluations of the parameter level, the offline and the online phase; their sum is
            `budget`, and each phase that takes part has at least one.
        """
        planned = min(self.planned or budget, budget)
        o = self.options.offline_share
        p = level_share(self.options.parameter_share, planned, experts, o)
        shares = np.array([p, o, 1.0 - p - o])
        if not self.parameter_level:
            shares = np.array([0.0, o / (1.0 - p), (1.0 - p - o) / (1.0 - p)])
        if not self.offline_phase:
            shares = np.array([shares[0], 0.0, shares[1] + shares[2]])
        # Every phase still to come keeps one evaluation, however the shares round.
        parameter = min(
            max(round(planned * shares[0]), int(shares[0] > 0)), budget - 1 - int(shares[1] > 0)
        )
        offline = min(max(round(planned * shares[1]), int(shares[1] > 0)), budget - 1 - parameter)
        return parameter, offline, budget - parameter - offline

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        if self._agent_class.walks_blends(self.settings):
            return self._search_blends(problem, budget)
        rng = np.random.default_rng(self.seed)
        parameter, offline, online = self.split(budget, len(problem.pool.expert_names))
        self._check_start(problem, parameter)
        data = read_dataset(problem, self.settings.agent.offline_data)
        before = problem.used
        pool = self._pool(problem, parameter, rng)
        if self.options.parameter.source == "preference":
            # Merging for preferences costs what it costs; the phases share the rest as they would.
            left = budget - round(problem.used - before)
            offline = round(left * (offline / (offline + online)))
            online = left - offline
        agent = self._agent(problem, pool)
        absorb_dataset(problem, agent, self.settings.agent.offline_data, data)

        def log(values: dict[str, float]) -> None:
            problem.logger.metrics(problem.used, values)

        if offline:
            problem.logger.phase("offline", offline)
            agent.offline(path_scorer(problem, "offline"), offline, log)
        problem.logger.phase("online", online)
        agent.online(path_scorer(problem, "online"), online, log)
        self.agent = agent
        return problem.archive

    @property
    def _agent_class(self) -> type[Agent]:
        made: type[Agent] = registry.find("agent", self.settings.agent.name).load()
        return made

    def _search_blends(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget on blends: there is one level, and no members to be offered."""
        space = blend_space(problem, self.settings.paths.blend_max)
        agent = self._agent_class.fresh(space, problem.objectives, self.settings)
        agent.absorb(*known_outcomes(problem, [*space.experts, problem.pool.base_name]))
        named = self.settings.agent.offline_data
        absorb_dataset(problem, agent, named, read_dataset(problem, named))

        def log(values: dict[str, float]) -> None:
            problem.logger.metrics(problem.used, values)

        problem.logger.phase("online", budget)
        agent.online(path_scorer(problem, "online"), budget, log)
        self.agent = agent
        return problem.archive

    def _pool(self, problem: MergeProblem, parameter: int, rng: np.random.Generator) -> Pool:
        """The parameter level: which members are offered to whom."""
        settings = self.options.parameter
        sources = list(problem.pool.expert_names)
        preferences = sample_dirichlet(self._own.preferences, len(problem.objectives), rng)
        if not self.parameter_level:
            sources.append(problem.pool.base_name)
            return Pool([sources] * len(preferences), preferences, [])
        problem.logger.phase("parameter", parameter)
        if settings.source == "preference":
            merged = merge_for(problem, preferences, settings)
            if self._own.per_preference:
                return Pool([[*sources, name] for name in merged], preferences, [])
            return Pool([[*sources, *dict.fromkeys(merged)]], preferences, [])
        recipes = sample_recipes(
            problem,
            parameter,
            settings,
            rng,
            "parameter",
            scored_batch=partial(describe_merges, problem),
        )
        chosen = select_members(problem, recipes, settings.members)
        names = [*sources, *(problem.members.add(recipe) for recipe in chosen)]
        others = [recipe for recipe in recipes if recipe not in chosen]
        return Pool([names] * len(preferences), preferences, others)

    def _agent(self, problem: MergeProblem, pool: Pool) -> Agent:
        """The agent, or one for each preference, told what is known at no cost."""
        settings, objectives = self.settings, problem.objectives
        agent: Agent
        if self._own.per_preference:
            spaces = [path_space(problem, names) for names in pool.offered]
            agent = SeparateAgents.build(spaces, objectives, settings, pool.preferences)
        else:
            space = path_space(problem, pool.offered[0])
            agent = self._agent_class.fresh(space, objectives, settings)
            if self._own.init_from and isinstance(agent, MergeAgent):
                start_from(agent.state, self._own.init_from)
        everyone = list(dict.fromkeys(name for names in pool.offered for name in names))
        agent.absorb(*known_outcomes(problem, everyone))
        learn_merges(problem, agent, pool.others)
        return agent

    def _check_start(self, problem: MergeProblem, parameter: int) -> None:
        """Refuse networks to start from that cannot fit, before the parameter level is paid for."""
        if not self._own.init_from:
            return
        experts = problem.pool.expert_names
        sizes = network_sizes(
            PathShape.of(path_space(problem, experts)),
            self._own,
            len(problem.objectives),
        )
        del sizes["members"]
        if not self.parameter_level:
            sizes["members"] = len(experts) + 1
        elif self.options.parameter.source == "search":
            sizes["members"] = len(experts) + min(self.options.parameter.members, parameter)
        check_start(self._own.init_from, sizes)


class ArchitectureOnly(HM3):
    """Ablation: paths through the experts and the base alone, no merged member."""

    parameter_level = False


class NoOffline(HM3):
    """Ablation: the offline phase's share of the budget goes to the online phase."""

    offline_phase = False

"""HM3 (Zhou et al., arXiv 2409.18893): parameter level, offline phase, online phase.

The budget is split 40 % / 20 % / 40 % by default (the paper states none): paths can be no better
than their members, and with 20 % the members seemed the limit (leads: experiments/first_front).
Its ablations are the same code with a level or a phase switched off, so that nothing else differs:

- `architecture_only`: no merged members, the experts and the base only (Table 6, row without the
  parameter level); the parameter level's share goes to the other two phases in proportion;
- `no_offline`: the offline share goes to the online phase, networks start untrained.
"""

from __future__ import annotations

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.search.architecture_level import (
    absorb_merges,
    known_outcomes,
    path_scorer,
    path_space,
)
from hm3rl.search.parameter_level import search_recipes, select_members
from hm3rl.settings import AgentSettings, SearchSettings


class HM3:
    """The two-level searcher.

    Args:
        settings: Shares of the budget and the parameter level.
        agent: The agent's settings.
        seed: Seed of the search.
        planned: Budget the shares refer to; 0: the budget given to `search`. The online phase
            takes what differs.
        parameter_level: Whether merged models join the pool.
        offline_phase: Whether the networks are pre-trained.
    """

    def __init__(
        self,
        settings: SearchSettings,
        agent: AgentSettings,
        seed: int,
        planned: int = 0,
        parameter_level: bool = True,
        offline_phase: bool = True,
    ) -> None:
        self.name = settings.name
        self.settings = settings
        self.agent_settings = agent
        self.seed = seed
        self.planned = planned
        self.parameter_level = parameter_level
        self.offline_phase = offline_phase
        self.phases = 1 + int(parameter_level) + int(offline_phase)
        self.agent: MergeAgent | None = None

    def split(self, budget: int) -> tuple[int, int, int]:
        """Divide a budget among the phases.

        Args:
            budget: Evaluations, at least the number of phases.

        Returns:
            Evaluations of the parameter level, the offline and the online phase; their sum is
            `budget`, and each phase that takes part has at least one.
        """
        p, o = self.settings.parameter_share, self.settings.offline_share
        shares = np.array([p, o, 1.0 - p - o])
        if not self.parameter_level:
            shares = np.array([0.0, o / (1.0 - p), (1.0 - p - o) / (1.0 - p)])
        if not self.offline_phase:
            shares = np.array([shares[0], 0.0, shares[1] + shares[2]])
        planned = min(self.planned or budget, budget)
        # Every phase still to come keeps one evaluation, however the shares round.
        parameter = min(
            max(round(planned * shares[0]), int(shares[0] > 0)), budget - 1 - int(shares[1] > 0)
        )
        offline = min(max(round(planned * shares[1]), int(shares[1] > 0)), budget - 1 - parameter)
        return parameter, offline, budget - parameter - offline

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        rng = np.random.default_rng(self.seed)
        parameter, offline, online = self.split(budget)
        merged: list[str] = []
        if self.parameter_level:
            problem.logger.phase("parameter", parameter)
            recipes = search_recipes(problem, parameter, self.settings.parameter, rng, "parameter")
            chosen = select_members(problem, recipes, self.settings.parameter.members)
            merged = [problem.members.add(recipe) for recipe in chosen]
        sources = list(problem.pool.expert_names)
        if not self.parameter_level:
            sources.append(problem.pool.base_name)
        names = [*sources, *merged]
        agent = MergeAgent(
            path_space(problem, names), self.agent_settings, problem.objectives, self.seed
        )
        agent.absorb(*known_outcomes(problem, names))
        if self.parameter_level:
            absorb_merges(problem, agent, [recipe for recipe in recipes if recipe not in chosen])

        def log(values: dict[str, float]) -> None:
            problem.logger.metrics(problem.charged, values)

        if offline:
            problem.logger.phase("offline", offline)
            agent.offline(path_scorer(problem, "offline"), offline, log)
        problem.logger.phase("online", online)
        agent.online(path_scorer(problem, "online"), online, log)
        self.agent = agent
        return problem.archive

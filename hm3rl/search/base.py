"""What every searcher is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar, cast

from hm3rl.agents.base import Agent
from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import SearcherSettings
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive

Options = TypeVar("Options", bound=SearcherSettings)


class Searcher(ABC, Generic[Options]):
    """Spends a budget of evaluations on a problem.

    A constructor that checks its options refuses, with an `InputError`, what cannot work.

    Attributes:
        options: Its own options.
        name: As in the configuration.
        seed: Seed of the search.
        planned: Budget that shares of it refer to; 0: the budget given to `search`.
        phases: Number of phases that each need at least one evaluation.
        merges: Whether it merges models; if not, experts may be of kinds that cannot be merged.
        agent: The trained agent after `search`, or None where the method has none.

    Args:
        settings: The run; `settings.search` has the searcher's options.
    """

    phases: int = 1
    merges: bool = True
    agent: Agent | None = None

    def __init__(self, settings: RunSettings) -> None:
        self.options = cast(Options, settings.search)
        self.name = settings.search.name
        self.seed = settings.seed
        self.planned = settings.planned_budget

    @abstractmethod
    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend at most `budget` evaluations.

        Args:
            problem: Prepared: its sources are scored and in the archive.
            budget: Evaluations this call may charge.

        Returns:
            The problem's archive.
        """

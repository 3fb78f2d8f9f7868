"""What every searcher is."""

from __future__ import annotations

from typing import Protocol

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.separate import SeparateAgents
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive


class Searcher(Protocol):
    """Spends a budget of evaluations on a problem.

    Attributes:
        name: As in the configuration.
        phases: Number of phases that each need at least one evaluation.
        agent: The trained agent after `search`, or None where the method has none.
    """

    name: str
    phases: int
    agent: MergeAgent | SeparateAgents | None

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend at most `budget` evaluations.

        Args:
            problem: Prepared: its sources are scored and in the archive.
            budget: Evaluations this call may charge.

        Returns:
            The problem's archive.
        """
        ...

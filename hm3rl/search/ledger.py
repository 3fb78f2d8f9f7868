"""`Ledger`: scores candidates for an optimiser and never spends more than it was given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.paths.candidate import Candidate


class Ledger:
    """A problem and the part of its budget that one optimiser may spend.

    Args:
        problem: Prepared problem.
        budget: Evaluations that may be charged.
        phase: Name under which they are logged.
    """

    def __init__(self, problem: MergeProblem, budget: int, phase: str) -> None:
        self.problem = problem
        self.phase = phase
        self._floor = max(problem.remaining - budget, 0)

    @property
    def left(self) -> int:
        """Evaluations that may still be charged."""
        return max(self.problem.remaining - self._floor, 0)

    def is_new(self, candidate: Candidate) -> bool:
        """Whether scoring a candidate would cost anything."""
        return not self.problem.seen(candidate)

    def score(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Score candidates in order, as many as the budget allows.

        Args:
            candidates: Repeats, and what this run has scored before, cost nothing.

        Returns:
            Scores f / z*, shape (n, K); n is smaller than the number of candidates if the budget
            ends before the n+1st. A candidate that failed has zeros, so that optimisers turn away
            from it; it enters neither archive nor front.
        """
        new: set[str] = set()
        count = 0
        for candidate in candidates:
            key = self.problem.key(candidate)
            if key not in new and not self.problem.seen(candidate):
                if len(new) == self.left:
                    break
                new.add(key)
            count += 1
        if not count:
            return np.zeros((0, len(self.problem.objectives)))
        evaluations = self.problem.evaluate(candidates[:count], self.phase)
        return np.stack([np.asarray(e.vector) for e in evaluations]) / self.problem.z_star

"""What the agent knows for certain: evaluated paths and their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hm3rl.objectives.indicators import non_dominated
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace


@dataclass(frozen=True)
class Outcome:
    """What evaluating one path told.

    Attributes:
        vector: Task scores divided by z*, shape (K,); empty if the evaluation failed.
        nll: Negative log-likelihood of the references by task, shape (K,); empty if it failed.
        ok: False if the evaluation failed. Then the path counts as known, so that nobody asks for
            it again, but neither the surrogate nor the replay nor PPO learns from it.
    """

    vector: np.ndarray
    nll: np.ndarray
    ok: bool = True

    @classmethod
    def failure(cls) -> Outcome:
        """The outcome of a path that could not be scored."""
        return cls(np.empty(0), np.empty(0), ok=False)


class EvaluatePaths(Protocol):
    """Evaluates distinct new paths, in order, and charges the budget for each."""

    def __call__(self, paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        """Outcomes in order.

        Args:
            paths: Distinct paths that nobody asked for before.
            chosen_by: What proposed each of them ("policy", "variation", ...), for the count in
                summary.json; empty: the phase.
        """


LogMetrics = Callable[[dict[str, float]], None]
"""Receives scalars of the agent's learning."""


class Dataset:
    """Evaluated paths of one space, in the order they became known.

    Args:
        space: The path space.
        objectives: K.
    """

    def __init__(self, space: PathSpace, objectives: int) -> None:
        self.space = space
        self.objectives = objectives
        self._index: dict[bytes, int] = {}
        self._tokens: list[np.ndarray] = []
        self._outcomes: list[Outcome] = []

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, tokens: np.ndarray, outcome: Outcome) -> None:
        """Remember a path; one that is known already keeps its first outcome."""
        row = np.asarray(tokens, dtype=np.int64)
        key = row.tobytes()
        if key not in self._index:
            self._index[key] = len(self._tokens)
            self._tokens.append(row)
            self._outcomes.append(outcome)

    def knows(self, tokens: np.ndarray) -> bool:
        """Whether a path was evaluated, successfully or not."""
        return np.asarray(tokens, dtype=np.int64).tobytes() in self._index

    def outcome(self, tokens: np.ndarray) -> Outcome:
        """Outcome of a known path."""
        return self._outcomes[self._index[np.asarray(tokens, dtype=np.int64).tobytes()]]

    def fresh(self, tokens: np.ndarray, limit: int | None = None) -> np.ndarray:
        """Distinct rows that are not known yet, in order, at most `limit` of them."""
        return np.asarray(tokens)[self.fresh_at(tokens, limit)]

    def fresh_at(self, tokens: np.ndarray, limit: int | None = None) -> list[int]:
        """Where these rows stand: of equal ones the first."""
        seen: set[bytes] = set()
        keep = []
        for i, row in enumerate(np.asarray(tokens, dtype=np.int64)):
            key = row.tobytes()
            if key in self._index or key in seen:
                continue
            seen.add(key)
            keep.append(i)
            if limit is not None and len(keep) == limit:
                break
        return keep

    @property
    def ok(self) -> np.ndarray:
        """Which evaluations succeeded, boolean of shape (n,)."""
        return np.array([outcome.ok for outcome in self._outcomes], dtype=bool)

    @property
    def failed(self) -> np.ndarray:
        """Rows of the evaluations that failed, shape (n, horizon)."""
        rows = [row for row, out in zip(self._tokens, self._outcomes, strict=True) if not out.ok]
        return np.array(rows, dtype=np.int64).reshape(len(rows), self.space.horizon)

    @property
    def tokens(self) -> np.ndarray:
        """Rows of the successful evaluations, shape (n, horizon)."""
        rows = [row for row, out in zip(self._tokens, self._outcomes, strict=True) if out.ok]
        return np.array(rows, dtype=np.int64).reshape(len(rows), self.space.horizon)

    @property
    def vectors(self) -> np.ndarray:
        """Scores over z* of the successful evaluations, shape (n, K)."""
        rows = [out.vector for out in self._outcomes if out.ok]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.objectives)

    @property
    def nll(self) -> np.ndarray:
        """Negative log-likelihoods of the successful evaluations, shape (n, K)."""
        rows = [out.nll for out in self._outcomes if out.ok]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.objectives)

    def front(self) -> np.ndarray:
        """Positions (among the successful) of the non-dominated paths."""
        return np.flatnonzero(non_dominated(self.vectors))

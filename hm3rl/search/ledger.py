"""`Ledger`: scores candidates for an optimiser and never spends more than it was given.

`KnownPoints` are what an optimiser knows before it spends anything: members and sources were scored
already, so those that its vectors can express are its first parents or its starting points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.paths.candidate import Candidate
from hm3rl.search.encoding import Encoding, MergeEncoding
from hm3rl.search.parameter_level import ATTEMPTS


class Scores(NamedTuple):
    """What scoring candidates told. A candidate that failed has no vector, and nobody gets one.

    Attributes:
        ok: Which of the n candidates got scores, boolean of shape (n,).
        vectors: Scores f / z* of these, in their order, shape (ok.sum(), K).
    """

    ok: np.ndarray
    vectors: np.ndarray

    def each(self) -> list[np.ndarray | None]:
        """Scores of each of the n candidates, None where it failed."""
        rows = iter(self.vectors)
        return [next(rows) if ok else None for ok in self.ok]


class KnownPoints(NamedTuple):
    """Vectors of an encoding whose scores are known at no cost.

    Attributes:
        vectors: Shape (n, D).
        scores: f / z* there, shape (n, K).
    """

    vectors: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(
        cls,
        problem: MergeProblem,
        encoding: Encoding,
        pairs: Iterable[tuple[np.ndarray | None, Candidate]],
    ) -> KnownPoints:
        """Those of some vectors whose models this run has scored.

        Args:
            problem: Knows what was scored.
            encoding: Whose vectors they are.
            pairs: Vectors of shape (D,), each with a candidate of the same weights; None where the
                encoding cannot express it.
        """
        found = [
            (vector, problem.known([candidate])[0].vector)
            for vector, candidate in pairs
            if vector is not None and problem.seen(candidate) and problem.known([candidate])[0].ok
        ]
        vectors = np.reshape([vector for vector, _ in found], (len(found), len(encoding.lower)))
        scores = np.reshape([scored for _, scored in found], (len(found), len(problem.objectives)))
        return cls(vectors, problem.normalise(scores))

    @classmethod
    def scored(
        cls, problem: MergeProblem, encoding: Encoding, vectors: Iterable[np.ndarray]
    ) -> KnownPoints:
        """Those of some vectors whose candidates this run has scored."""
        return cls.of(problem, encoding, ((vector, encoding.decode(vector)) for vector in vectors))

    @classmethod
    def sources(cls, problem: MergeProblem, encoding: MergeEncoding) -> KnownPoints:
        """The experts and the base, as far as the encoding's merges can be them."""
        pool = problem.pool
        named = [(name, name) for name in pool.expert_names] + [(None, pool.base_name)]
        whole = ((expert, Candidate.whole(name, pool.num_layers)) for expert, name in named)
        pairs = ((encoding.source(expert), candidate) for expert, candidate in whole)
        return cls.of(problem, encoding, pairs)

    def joined(self, vectors: np.ndarray, scores: np.ndarray) -> KnownPoints:
        """These, followed by others."""
        return KnownPoints(
            np.concatenate([self.vectors, vectors]), np.concatenate([self.scores, scores])
        )


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

    def fresh(self, encoding: Encoding, most: int, rng: np.random.Generator) -> np.ndarray:
        """Draw vectors of candidates that are new, for optimisers that have run dry.

        Args:
            encoding: Draws and decodes.
            most: How many at most.
            rng: Source of randomness.

        Returns:
            Shape (n, D), of different candidates; n is 0 if `ATTEMPTS` draws bring nothing new: the
            space counts as exhausted.
        """
        found: dict[str, np.ndarray] = {}
        vectors = encoding.sample(ATTEMPTS, rng)
        for vector in vectors:
            if len(found) == most:
                break
            candidate = encoding.decode(vector)
            if self.is_new(candidate):
                found.setdefault(self.problem.key(candidate), vector)
        return np.array(list(found.values())).reshape(len(found), vectors.shape[1])

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Score candidates in order, as many as the budget allows.

        Args:
            candidates: Repeats, and what this run has scored before, cost nothing.

        Returns:
            Scores of the first n candidates, all of them unless the budget ends before the n+1st.
            Those that failed are paid for and enter neither archive nor front; what an optimiser
            does with them it says itself.
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
        evaluations = self.problem.evaluate(candidates[:count], self.phase) if count else []
        vectors = [evaluation.vector for evaluation in evaluations if evaluation.ok]
        return Scores(
            np.array([evaluation.ok for evaluation in evaluations], dtype=bool),
            self.problem.normalise(
                np.reshape(vectors, (len(vectors), len(self.problem.objectives)))
            ),
        )

"""Competitor `moholl`: regions of the space, and proposals inside the promising ones (MOHOLLM).

Schwanke et al., "Multi-Objective Hierarchical Optimization with Large Language Models" (arXiv
2601.13892). Five random points first; then, in rounds:

1. A kd-tree over all that was evaluated, five points to a leaf (`hm3rl.search.regions`).
2. Five leaves are drawn by their scores.
3. Each gives five proposals inside its bounds (`search.proposer`).
4. The objectives of all of them are predicted, and the four with the largest hypervolume gain, each
   by itself, are evaluated.

What is not said there and is our reading: a round is a step of the scores' cosine; T of the bound
is the number of points; "single-point hypervolume contributions" are the volumes that points
dominate by themselves. What deviates:

- Vectors are coefficients of blends, of the stem and of groups of layers (`GroupedBlends`).
- The sources, whose scores cost nothing, are among the points.
- Predictions are a Gaussian process's (`BlendGP`) whoever proposes. In the paper a language model
  predicts, too, and a Gaussian process is an ablation.
- `proposer=surrogate` takes expected hypervolume improvement on joint posterior samples, of
  candidates at random in the leaf and around its points, where the paper's ablation has qLogEHVI.
- A leaf whose language model gave no usable answer is filled at random, and that is counted.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from hm3rl.config.schema import RunSettings
from hm3rl.config.searchers import MohollSettings
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.indicators import hypervolume
from hm3rl.search.architecture_level import blend_space
from hm3rl.search.base import Searcher
from hm3rl.search.encoding import GroupedBlends
from hm3rl.search.language_model import Conversation, check_model, open_model
from hm3rl.search.ledger import KnownPoints, Ledger
from hm3rl.search.region_proposers import Known, Proposer, RandomProposer, SurrogateProposer
from hm3rl.search.region_words import LanguageProposer
from hm3rl.search.regions import attraction, between_extremes, divide

FIRST, CAPACITY, DRAWN, PROPOSED, BATCH = 5, 5, 5, 5, 4
"""Random points; points of a leaf; of a round: leaves, proposals of each, evaluations."""

REFERENCE = -0.2
"""Of the hypervolume gain, on the scale on which 0 is the worst known and 1 the best."""

TRANSCRIPT = "language_model.jsonl"
"""In the run folder: every question and answer."""


class Moholl(Searcher[MohollSettings]):
    """Searches blends region by region."""

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.output = settings.output
        if self.options.proposer == "llm":
            check_model(self.options.llm, "search.llm")
        elif self.options.llm.model or self.options.llm.endpoint:
            raise InputError(
                f"search.llm with search.proposer={self.options.proposer}, which asks nobody",
                "search.proposer=llm, or drop search.llm",
            )

    def search(self, problem: MergeProblem, budget: int) -> Archive:
        """Spend the budget; see `Searcher.search`."""
        problem.logger.phase(self.name, budget)
        rng = np.random.default_rng(self.seed)
        encoding = GroupedBlends(blend_space(problem, 1.0), self.options.groups)
        known = Known(encoding, KnownPoints.sources(problem, encoding))
        ledger = Ledger(problem, budget, self.name)
        proposer = self._proposer(problem)
        asked, step = ledger.fresh(encoding, FIRST, rng), 0
        while len(asked):
            ok, scores = ledger.score([encoding.decode(vector) for vector in asked])
            known.add(asked[: len(ok)][ok], scores)
            if not ledger.left:
                break
            begun = time.perf_counter()
            asked = self._next(ledger, known, proposer, step, rng)
            problem.deciding += time.perf_counter() - begun
            step += 1
        return problem.archive

    def _proposer(self, problem: MergeProblem) -> Proposer:
        if self.options.proposer == "random":
            return RandomProposer()
        if self.options.proposer == "surrogate":
            return SurrogateProposer()
        transcript = Path(self.output) / TRANSCRIPT if self.output else None
        asked = self.options.llm
        conversation = Conversation(asked, transcript, partial(open_model, asked, self.seed))
        return LanguageProposer(conversation, problem, RandomProposer())

    def _next(
        self,
        ledger: Ledger,
        known: Known,
        proposer: Proposer,
        step: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The next vectors, of new candidates, shape (n, D); none if the space is exhausted."""
        encoding = known.encoding
        if len(known.vectors) < 2:  # all but one have failed: nothing to learn from yet
            return ledger.fresh(encoding, BATCH, rng)
        known.fit()
        corners = encoding.lower, encoding.upper
        regions = divide(known.vectors, *corners, CAPACITY)
        chances = attraction(regions, known.scores, *corners, step)
        drawn = rng.choice(len(regions), size=min(DRAWN, len(regions)), replace=False, p=chances)
        found: dict[str, np.ndarray] = {}
        for place in drawn:
            for vector in encoding.rounded(proposer.propose(known, regions[place], PROPOSED, rng)):
                candidate = encoding.decode(vector)
                if ledger.is_new(candidate):
                    found.setdefault(ledger.problem.key(candidate), vector)
        if not found:
            return ledger.fresh(encoding, BATCH, rng)
        pool = np.array(list(found.values()))
        gained = improvements(known.expected(pool), known.scores)
        return pool[np.argsort(-gained, kind="stable")[:BATCH]]


def improvements(expected: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Hypervolume that each of some points would add by itself.

    Args:
        expected: Their scores, shape (n, K).
        known: Scores of what was evaluated, shape (N, K), between whose extremes all are put.

    Returns:
        Shape (n,).
    """
    reference = np.full(known.shape[1], REFERENCE)
    there, new = between_extremes(known, known), between_extremes(expected, known)
    before = hypervolume(there, reference)
    return np.array([hypervolume(np.vstack([there, one]), reference) for one in new]) - before

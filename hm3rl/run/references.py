"""What a front is held against beside its experts: merges that nobody has to search for."""

from __future__ import annotations

from typing import NamedTuple

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.merging.references import uniform_blends
from hm3rl.models.pool import ModelPool
from hm3rl.paths.candidate import Candidate


class Reference(NamedTuple):
    """A merge on both splits.

    Attributes:
        candidate: What rebuilds it.
        search: Scored as the search decides.
        test: Scored in full.
    """

    candidate: Candidate
    search: Evaluation
    test: Evaluation

    def to_dict(self) -> dict[str, object]:
        """As a JSON-ready mapping; a failure has no scores."""
        scores = {
            split + suffix: [float(value) for value in getattr(evaluation, column)]
            for split, evaluation in (("search", self.search), ("test", self.test))
            for suffix, column in (("", "scores"), ("_se", "standard_errors"))
        }
        return {"key": self.search.key, **scores}


def reference_candidates(pool: ModelPool) -> dict[str, Candidate]:
    """The uniform blends of the experts that can be merged, by name; none of fewer than two."""
    if len(pool.mergeable) < 2:
        return {}
    return {
        name: Candidate.whole(recipe, pool.num_layers)
        for name, recipe in uniform_blends(pool.mergeable).items()
    }


def score_references(problem: MergeProblem) -> dict[str, Reference]:
    """Score the uniform blends of the experts that can be merged, beside archive and budget.

    Returns:
        By name. One that fails is left out.
    """
    blends = reference_candidates(problem.pool)
    if not blends:
        return {}
    searched = problem.evaluator.evaluate(list(blends.values()), fidelity=problem.fidelity)
    tested = problem.rescore(list(blends.values()))
    found = {
        name: Reference(candidate, search, test)
        for (name, candidate), search, test in zip(blends.items(), searched, tested, strict=True)
    }
    return {name: one for name, one in found.items() if one.search.ok and one.test.ok}

"""A preference in, a model out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.paths.candidate import Candidate
from hm3rl.run.finished import FinishedRun
from hm3rl.search.architecture_level import path_scorer, to_candidate

BEAM = 16
"""Samples of the policy that are improved and ranked by its surrogate before one is chosen."""


@dataclass(frozen=True)
class Choice:
    """The model chosen for a preference.

    Attributes:
        candidate: What rebuilds it.
        key: Its content hash.
        origin: `agent` (its decoded path: policy samples improved and ranked by its surrogate)
            or `front` (best of what was evaluated).
        utility: Its utility (`FinishedRun.utility`) on the search split, or None if it was not
            evaluated.
        evaluation: Its scores on the search split, or None.
        decoded: The path the agent decoded, in text form, or None without an agent.
        decoded_utility: Its utility, or None if it was not evaluated or has no score.
        front_utility: Utility of the best evaluated model.
    """

    candidate: Candidate
    key: str
    origin: str
    utility: float | None
    evaluation: Evaluation | None
    decoded: str | None
    decoded_utility: float | None
    front_utility: float


def pick(
    run: FinishedRun,
    preference: np.ndarray,
    budget: int = 0,
    evaluate: bool = True,
    beam: int = BEAM,
) -> Choice:
    """The model for a preference.

    The agent decodes a path, which is scored once; the better of it and all that the run evaluated
    is kept, by the run's utility.

    Args:
        run: A finished run.
        preference: Shape (K,), on the simplex.
        budget: Further evaluations to refine the choice with, all for this preference.
        evaluate: Whether anything is scored; without, the decoded path is returned as it is.
        beam: Policy samples the agent improves and ranks; 0: the policy's greedy path.

    Returns:
        The choice.

    Raises:
        InputError: A budget with `evaluate=False`, or either with a run that has no agent.
    """
    if budget and not evaluate:
        raise InputError(
            f"--budget {budget} with --no-eval, which scores nothing",
            "drop --no-eval to refine the choice, or --budget to decode alone",
        )
    best, front_utility = run.best(preference)
    if run.agent is None:
        if not evaluate or budget:
            raise InputError(
                f"the run in {run.folder.path} has no agent ({run.summary['searcher']})",
                "pick from its front (drop --no-eval and --budget), or search with search=hm3",
            )
        return _from_front(run, best, front_utility, None, None)
    path = run.agent.decode(preference, beam=beam)
    candidate = to_candidate(run.problem, path)
    key = run.problem.key(candidate)
    if not evaluate:
        return Choice(candidate, key, "agent", None, None, str(path), None, front_utility)
    run.problem.budget += 1 + budget - run.problem.remaining
    (evaluation,) = run.problem.evaluate([candidate], "pick")
    decoded_utility = None
    if evaluation.ok:
        decoded_utility = run.worth(evaluation.vector, path.length, preference)
    options = [(candidate, evaluation)]
    if budget:
        options += _refine(run, preference, budget)
    # The agent's come first: of two models equal in everything it is the agent's that is named.
    scored = [(option, one) for option, one in options if one.ok]
    vectors = [one.vector for _, one in scored] + [run.archive.vector(best)]
    lengths = [option.path.length for option, _ in scored] + [run.candidate(best).path.length]
    chosen = run.utility.best(
        run.archive.normalise(np.array(vectors)), np.array(lengths), preference
    )
    if chosen == len(scored):
        return _from_front(run, best, front_utility, str(path), decoded_utility)
    candidate, evaluation = scored[chosen]
    return Choice(
        candidate,
        run.problem.key(candidate),
        "agent",
        run.worth(evaluation.vector, candidate.path.length, preference),
        evaluation,
        str(path),
        decoded_utility,
        front_utility,
    )


def _from_front(
    run: FinishedRun,
    key: str,
    utility: float,
    decoded: str | None,
    decoded_utility: float | None,
) -> Choice:
    candidate = run.candidate(key)
    return Choice(
        candidate, key, "front", utility, run.evaluation(key), decoded, decoded_utility, utility
    )


def _refine(
    run: FinishedRun, preference: np.ndarray, budget: int
) -> list[tuple[Candidate, Evaluation]]:
    """Search on for one preference with the trained networks; what that scored anew."""
    assert run.agent is not None
    problem = run.problem
    before = set(problem.archive.keys)
    run.agent.refine(path_scorer(problem, "refine"), budget, preference)
    new = [key for key in problem.archive.keys if key not in before]
    return [(problem.candidate(key), problem.evaluation(key)) for key in new]

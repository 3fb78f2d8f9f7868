"""A preference in, a model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.files import POSTERIOR, SCORES
from hm3rl.objectives.archive import Archive
from hm3rl.paths.candidate import Candidate
from hm3rl.run.finished import FinishedRun
from hm3rl.search.architecture_level import path_scorer, posterior, to_candidate, to_outcome

BEAM = 16
"""Samples of the policy that are improved and ranked by its surrogate before one is chosen."""


Scored = dict[str, tuple[Candidate, Evaluation]]
"""Models by key."""


@dataclass(frozen=True)
class Choice:
    """The model chosen for a preference.

    Attributes:
        candidate: What rebuilds it.
        key: Its content hash.
        origin: `agent` (its decoded path: policy samples improved and ranked by its surrogate)
            or `front` (best of what was evaluated).
        by: What models were compared by: `posterior` means of the agent's surrogate, or `scores`.
        utility: Its utility by that (`FinishedRun.utility`), or None if it was not evaluated.
        evaluation: Its scores on the search split, or None.
        posterior: Posterior means and errors of its scores, each of shape (K,), or None if it was
            not compared by them.
        decoded: The path the agent decoded, in text form, or None without an agent.
        decoded_utility: Its utility, or None if it was not evaluated or has no score.
        front_utility: Utility of the best evaluated model.
    """

    candidate: Candidate
    key: str
    origin: str
    by: str
    utility: float | None
    evaluation: Evaluation | None
    posterior: tuple[np.ndarray, np.ndarray] | None
    decoded: str | None
    decoded_utility: float | None
    front_utility: float


def pick(
    run: FinishedRun,
    preference: np.ndarray,
    budget: int = 0,
    evaluate: bool = True,
    beam: int = BEAM,
    by: str | None = None,
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
        by: Whether `posterior` means are compared, of an agent that hears of what is scored here,
            or `scores`; None: posterior means if the run has them.

    Returns:
        The choice.

    Raises:
        InputError: A budget with `evaluate=False`, either with a run that has no agent, or `by` is
            nothing that the run can be picked from by.
    """
    if budget and not evaluate:
        raise InputError(
            f"--budget {budget} with --no-eval, which scores nothing",
            "drop --no-eval to refine the choice, or --budget to decode alone",
        )
    by = _by(run, by)
    scored: Scored = {}
    first, decoded = None, None
    if run.agent is None:
        if not evaluate or budget:
            raise InputError(
                f"the run in {run.folder.path} has no agent ({run.summary['searcher']})",
                "pick from its front (drop --no-eval and --budget), or search with search=hm3",
            )
    else:
        path = run.agent.decode(preference, beam=beam)
        candidate = to_candidate(run.problem, path)
        first, decoded = run.problem.key(candidate), str(path)
        if not evaluate:
            known = run.posterior.means if by == POSTERIOR and run.posterior else run.archive
            front = run.best(preference, known)[1]
            return Choice(candidate, first, "agent", by, None, None, None, decoded, None, front)
        run.problem.budget += 1 + budget - run.problem.remaining
        (evaluation,) = run.problem.evaluate([candidate], "pick")
        if by == POSTERIOR:
            run.agent.observe([path], [to_outcome(run.problem, evaluation)])
        scored[first] = candidate, evaluation
        if budget:
            scored |= _refine(run, preference, budget)
        scored = {key: one for key, one in scored.items() if one[1].ok}
    known, errors = _compared(run, by, scored)
    best, front_utility = run.best(preference, known)
    # The agent's come first: of two models equal in everything it is the agent's that is named.
    options = [*((key, one[0]) for key, one in scored.items()), (best, run.candidate(best))]
    lengths = [candidate.path.length for _, candidate in options]
    vectors = np.array([known.vector(key) for key, _ in options])
    chosen = run.utility.best(known.normalise(vectors), np.array(lengths), preference)
    worth = [run.worth(v, n, preference) for v, n in zip(vectors, lengths, strict=True)]
    from_front = chosen == len(scored)
    key, candidate = options[chosen]
    return Choice(
        candidate,
        key,
        "front" if from_front else "agent",
        by,
        worth[chosen],
        run.evaluation(key) if from_front else scored[key][1],
        (known.vector(key), errors[key]) if by == POSTERIOR else None,
        decoded,
        worth[0] if first in scored else None,
        front_utility,
    )


def _by(run: FinishedRun, by: str | None) -> str:
    if by is None:
        return SCORES if run.posterior is None else POSTERIOR
    if by not in (POSTERIOR, SCORES):
        raise InputError(f"--by {by}", f"use {POSTERIOR} or {SCORES}")
    if by == POSTERIOR and run.posterior is None:
        raise InputError(
            f"--by {by}, but the run in {run.folder.path} has no posterior means",
            f"use --by {SCORES}; runs of agents over blends have them (agent=psl, agent=none)",
        )
    return by


def _compared(
    run: FinishedRun, by: str, scored: Scored
) -> tuple[Archive, Mapping[str, np.ndarray]]:
    """What the run's models and those scored just now are compared by; errors of means."""
    if by == POSTERIOR:
        new = {key: candidate for key, (candidate, _) in scored.items()}
        found = posterior(run.problem, run.agent, {**run.candidates, **new})
        assert found is not None  # the agent could say after the search, and knows more now
        return found.means, found.errors
    known = Archive(run.objectives, run.archive.z_star)
    for key in run.archive.keys:
        known.add(key, run.archive.vector(key))
    for key, (_, evaluation) in scored.items():
        known.add(key, evaluation.vector)
    return known, {}


def _refine(run: FinishedRun, preference: np.ndarray, budget: int) -> Scored:
    """Search on for one preference with the trained networks; what that scored anew."""
    assert run.agent is not None
    problem = run.problem
    before = set(problem.archive.keys)
    run.agent.refine(path_scorer(problem, "refine"), budget, preference)
    new = [key for key in problem.archive.keys if key not in before]
    return {key: (problem.candidate(key), problem.evaluation(key)) for key in new}

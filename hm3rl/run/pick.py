"""A preference in, a model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hm3rl.agents.agent import MergeAgent
from hm3rl.agents.base import Agent
from hm3rl.errors import InputError
from hm3rl.evaluation.result import Evaluation
from hm3rl.files import POSTERIOR, SCORES
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.utility import BALANCE, Utility
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.layer_path import LayerPath
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
        asked: What a model is worth here.
        by: What models were compared by: `posterior` means of the agent's surrogate, or `scores`.
        utility: Its utility by that, or None if it was not evaluated.
        evaluation: Its scores on the search split, or None.
        test: Its scores on the test split, on which nothing is chosen, or None.
        posterior: Posterior means and errors of its scores, each of shape (K,), or None if it was
            not compared by them.
        expected: Of a path that was not evaluated: scores that the agent's surrogate expects, and
            their standard deviations, each of shape (K,); None if it cannot say.
        expert: The expert that it is, if it is one and nothing else.
        most_even: Key of the evaluated model that keeps most of the best experts' scores on the
            task where it keeps least, and that share.
        decoded: The path the agent decoded, in text form, or None without an agent.
        decoded_utility: Its utility, or None if it was not evaluated or has no score.
        front_utility: Utility of the best evaluated model, whatever scores were asked for.
    """

    candidate: Candidate
    key: str
    origin: str
    asked: Utility
    by: str
    utility: float | None
    evaluation: Evaluation | None
    test: Evaluation | None
    posterior: tuple[np.ndarray, np.ndarray] | None
    expected: tuple[np.ndarray, np.ndarray] | None
    expert: str | None
    most_even: tuple[str, float]
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
    utility: str = BALANCE,
    at_least: Mapping[str, float] | None = None,
) -> Choice:
    """The model for a preference.

    The agent decodes a path, which is scored once; it and all that the run evaluated are compared
    by the utility asked for. The agent itself decodes and refines by the one it was trained for.
    What is chosen is scored on the test split, too.

    Args:
        run: A finished run.
        preference: Shape (K,), on the simplex.
        budget: Further evaluations to refine the choice with, all for this preference.
        evaluate: Whether anything is scored; without, the decoded path is returned as it is.
        beam: Policy samples the agent improves and ranks; 0: the policy's greedy path.
        by: Whether `posterior` means are compared, of an agent that hears of what is scored here,
            or `scores`; None: posterior means if the run has them.
        utility: `balance` (Tchebycheff: good at all that is preferred) or `run`, the utility that
            the run was searched by.
        at_least: Scores that the model must have, by objective; of one to be minimised the highest
            cost. They are held against what models are compared by.

    Returns:
        The choice.

    Raises:
        InputError: A budget or minimum scores with `evaluate=False`, either with a run that has no
            agent, `by` or `utility` is nothing that the run can be picked by, or no model has the
            minimum scores.
    """
    if budget and not evaluate:
        raise InputError(
            f"--budget {budget} with --no-eval, which scores nothing",
            "drop --no-eval to refine the choice, or --budget to decode alone",
        )
    if at_least and not evaluate:
        raise InputError("--at-least with --no-eval, which scores nothing", "drop one of them")
    by, asked = _by(run, by), run.utility_of(utility)
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
            return _unscored(run, preference, candidate, by, asked)
        run.problem.budget += 1 + budget - run.problem.remaining
        (evaluation,) = run.problem.evaluate([candidate], "pick")
        if by == POSTERIOR:
            run.agent.observe([path], [to_outcome(run.problem, evaluation)])
        scored[first] = candidate, evaluation
        if budget:
            scored |= _refine(run, preference, budget)
        scored = {key: one for key, one in scored.items() if one[1].ok}
    known, errors = _compared(run, by, scored)
    # The agent's come first: of two models equal in everything it is the agent's that is named.
    new = {key: one[0] for key, one in scored.items()}
    options = new | {key: one for key, one in run.candidates.items() if key not in new}
    keys = _with_scores(run, known, list(options), at_least or {})
    lengths = [options[key].path.length for key in keys]
    vectors = np.array([known.vector(key) for key in keys])
    key = keys[asked.best(known.normalise(vectors), np.array(lengths), preference)]
    candidate = options[key]

    def worth(one: str) -> float:
        return run.worth(known.vector(one), options[one].path.length, preference, asked)

    return Choice(
        candidate,
        key,
        "agent" if key in scored else "front",
        asked,
        by,
        worth(key),
        scored[key][1] if key in scored else run.evaluation(key),
        run.problem.rescore([candidate])[0],
        (known.vector(key), errors[key]) if by == POSTERIOR else None,
        None,
        _expert(run, candidate),
        _most_even(known, options),
        decoded,
        worth(first) if first in scored else None,
        run.best(preference, known, asked)[1],
    )


def _unscored(
    run: FinishedRun, preference: np.ndarray, candidate: Candidate, by: str, asked: Utility
) -> Choice:
    """The agent's path as it is, with what its surrogate expects of it."""
    known = run.posterior.means if by == POSTERIOR and run.posterior else run.archive
    foretold = _foretold(run.agent, candidate.path)
    z_star = run.archive.z_star
    return Choice(
        candidate,
        run.problem.key(candidate),
        "agent",
        asked,
        by,
        None,
        None,
        None,
        None,
        None if foretold is None else (foretold[0] * z_star, foretold[1] * z_star),
        _expert(run, candidate),
        _most_even(known, run.candidates),
        str(candidate.path),
        None,
        run.best(preference, known, asked)[1],
    )


def _foretold(agent: Agent | None, path: LayerPath) -> tuple[np.ndarray, np.ndarray] | None:
    """What an agent's surrogate expects of a path: f / z* and standard deviations, shape (K,)."""
    if agent is None:
        return None
    found = agent.posterior([path])
    if found is None and isinstance(agent, MergeAgent) and agent.state.surrogate.ready:
        found = agent.predict([path])
    return None if found is None else (found[0][0], found[1][0])


def _expert(run: FinishedRun, candidate: Candidate) -> str | None:
    name = candidate.path.whole_member
    return name if name in run.experts and run.experts[name] == candidate.path else None


def _most_even(known: Archive, options: Mapping[str, Candidate]) -> tuple[str, float]:
    keys = [key for key in known.keys if key in options]
    number, share = Utility.most_even(known.normalise(np.array([known.vector(k) for k in keys])))
    return keys[number], share


def _with_scores(
    run: FinishedRun, known: Archive, keys: list[str], at_least: Mapping[str, float]
) -> list[str]:
    """The models that have minimum scores, of those with these keys.

    Raises:
        InputError: None has; names the one that lacks least.
    """
    costs = run.summary.get("minimised", {})
    least = np.full(len(run.objectives), -np.inf)
    for name, value in at_least.items():
        worst = costs.get(name, {}).get("worst")
        least[run.objectives.index(name)] = value if worst is None else 1.0 - value / worst
    vectors = np.array([known.vector(key) for key in keys])
    lacks = np.maximum(least - vectors, 0.0).max(axis=1)
    found = [key for key, lack in zip(keys, lacks, strict=True) if lack <= 1e-9]
    if not found:
        nearest = int(lacks.argmin())
        said = ", ".join(
            f"{name} {costs[name]['worst'] * (1.0 - value) if name in costs else value:.3f}"
            for name, value in zip(run.objectives, vectors[nearest], strict=True)
        )
        asked = " ".join(f"{name}={value:g}" for name, value in at_least.items())
        named = {row["key"]: row["name"] for row in run.front_rows()}
        name = named.get(keys[nearest], keys[nearest][:12])
        raise InputError(
            f"no model of this run has --at-least {asked}",
            f"ask for less: the nearest is {name} with {said}; or search on with "
            "--budget, or resume the run with a larger budget",
        )
    return found


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

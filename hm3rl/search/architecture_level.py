"""The architecture level's side of the bridge between a problem and the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hm3rl.agents.base import Agent
from hm3rl.errors import InputError
from hm3rl.evaluation.problem import MergeProblem
from hm3rl.evaluation.result import Evaluation
from hm3rl.interop import minari_dataset
from hm3rl.merging.recipe import MergeRecipe
from hm3rl.objectives.archive import Archive
from hm3rl.objectives.posterior import Posterior
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.paths.candidate import Candidate
from hm3rl.paths.descriptors import layer_descriptors
from hm3rl.paths.layer_path import LayerPath
from hm3rl.paths.space import PathSpace
from hm3rl.surrogate.dataset import EvaluatePaths, Outcome

DESCRIPTOR_SEED = 0


def path_space(problem: MergeProblem, names: Sequence[str], describe: bool = True) -> PathSpace:
    """Describe to the agent what it may choose from.

    Args:
        problem: Its members include `names`.
        names: Members offered, in a fixed order.
        describe: Whether layers get descriptors; a method without networks that read them saves
            the time, and the merging of members whose weights are not in memory.

    Returns:
        Members, legal successions, the context features of each member and the descriptor of each
        layer.
    """
    members = problem.members
    deepest = max(members.num_layers(name) for name in names)
    return PathSpace(
        members=tuple(names),
        num_layers=tuple(members.num_layers(name) for name in names),
        limits=problem.limits,
        context=np.stack([members.recipe_features(name) for name in names]),
        descriptors=layer_descriptors(members, names, seed=DESCRIPTOR_SEED)
        if describe
        else np.zeros((len(names), deepest, 0), np.float32),
        can_follow=np.array([[members.can_follow(a, b) for b in names] for a in names]),
    )


def blend_space(problem: MergeProblem, largest: float) -> BlendSpace:
    """The blends of a problem's experts that can be merged, with coefficients up to `largest`."""
    return BlendSpace(problem.pool.mergeable, problem.pool.num_layers, largest)


def to_candidate(problem: MergeProblem, path: LayerPath) -> Candidate:
    """The candidate a path stands for, with its recipes and the alignment of the search."""
    return Candidate.of(path, problem.members.recipes, alignment=problem.limits.alignment)


def path_scorer(problem: MergeProblem, phase: str) -> EvaluatePaths:
    """A function that scores paths for the agent and charges the problem's budget.

    Args:
        problem: The problem.
        phase: Name under which the evaluations are logged.

    Returns:
        Maps paths to outcomes, in order.
    """

    def score(paths: list[LayerPath], chosen_by: Sequence[str] = ()) -> list[Outcome]:
        candidates = [to_candidate(problem, path) for path in paths]
        evaluations = problem.evaluate(candidates, phase, chosen_by=chosen_by)
        return [to_outcome(problem, evaluation) for evaluation in evaluations]

    return score


def known_outcomes(
    problem: MergeProblem, names: Sequence[str]
) -> tuple[list[LayerPath], list[Outcome]]:
    """What is known at no cost: the members' own paths, which were scored before.

    Args:
        problem: The problem.
        names: Members whose own path has a score.

    Returns:
        Paths and outcomes.
    """
    paths = [LayerPath.whole(name, problem.pool.num_layers) for name in names]
    evaluations = problem.known([to_candidate(problem, path) for path in paths])
    return paths, [to_outcome(problem, evaluation) for evaluation in evaluations]


def scored_on(problem: MergeProblem) -> dict[str, Any]:
    """What the scores of a path on the search split depend on besides the path, as JSON."""
    condition = problem.evaluator.condition("search", problem.fidelity)
    return {
        "objectives": list(problem.objectives),
        "sources": dict(problem.pool.hashes),
        "tasks and items": condition.suite,
        "fidelity": condition.fidelity,
        "pool.dtype": condition.dtype,
        "paths.alignment": problem.limits.alignment,
    }


def read_dataset(problem: MergeProblem, text: str) -> dict[LayerPath, Outcome]:
    """The scored paths of a dataset, whose scores mean what the problem's do.

    Args:
        problem: The problem.
        text: `minari:NAME`, or nothing.

    Raises:
        InputError: There is no such dataset, or it was scored on something else.
    """
    if not text:
        return {}
    notes, scored = minari_dataset.read(minari_dataset.dataset_id(text))
    differ = [name for name, value in scored_on(problem).items() if notes.get(name) != value]
    if differ:
        raise InputError(
            f"agent.offline_data={text} was scored under another {', '.join(differ)}",
            "write one of a run that has the same: hm3rl dataset RUN --to minari:NAME",
        )
    unknown = np.full(len(problem.objectives), np.nan)
    return {one.path: Outcome(one.vector, unknown) for one in scored}


def absorb_dataset(
    problem: MergeProblem, agent: Agent, text: str, outcomes: Mapping[LayerPath, Outcome]
) -> None:
    """Have an agent that has not begun to learn take over the paths of a dataset, at no cost.

    Args:
        problem: Its logger hears how many they are.
        agent: The agent; it takes the paths of its space.
        text: The dataset's name, for messages.
        outcomes: What `read_dataset` gave; whole members, which it knows already, are passed over.

    Raises:
        InputError: There are some, and none that it did not know is in its space.
    """
    offered = {path for path in outcomes if agent.space.offers(path)}
    known = {path for path in offered if problem.seen(to_candidate(problem, path))}
    own = len(offered) - len(known)
    if outcomes and not own:
        raise InputError(
            f"none of the {len(outcomes)} paths of agent.offline_data={text} can be walked here",
            "give one with paths through these members: merged ones differ between seeds, and "
            "search=architecture_only has none; agents over blends take blends and sources",
        )
    if own:
        fresh = [path for path in outcomes if path not in known]
        agent.absorb(fresh, [outcomes[path] for path in fresh])
        problem.logger.metrics(problem.used, {"offline_data": float(own)})


def describe_merges(problem: MergeProblem, recipes: Sequence[MergeRecipe]) -> None:
    """Compute the layer descriptors of merged models now, while the models are in memory.

    The members keep the descriptors. Asked for at the end of a long parameter level, every model
    that the cache has dropped by then would have to be merged again.

    Args:
        problem: Has just scored the recipes.
        recipes: The latest last, as they lie in the cache.
    """
    if not recipes:
        return
    names = [problem.members.add(recipe) for recipe in reversed(recipes)]
    layer_descriptors(problem.members, names, seed=DESCRIPTOR_SEED)


def learn_merges(problem: MergeProblem, agent: Agent, recipes: Sequence[MergeRecipe]) -> None:
    """Tell the agent of the merged models that were scored but do not join the pool.

    Their scores cost evaluations already; its surrogate learns from them what a layer's recipe
    does, before the first path is scored.

    Args:
        problem: The problem that scored them.
        agent: An agent that has not begun to learn.
        recipes: The recipes.
    """
    if not recipes:
        return
    names = [problem.members.add(recipe) for recipe in recipes]
    _, outcomes = known_outcomes(problem, names)
    agent.learn_merges(
        np.stack([problem.members.recipe_features(name) for name in names]),
        layer_descriptors(problem.members, names, seed=DESCRIPTOR_SEED),
        outcomes,
    )


def posterior(
    problem: MergeProblem, agent: Agent | None, candidates: Mapping[str, Candidate]
) -> Posterior | None:
    """What an agent's surrogate makes of models that were evaluated.

    Args:
        problem: The problem.
        agent: After learning, or None.
        candidates: By key, in the order in which the posterior lists them. One outside the agent's
            space, such as an expert that cannot be merged, stands with its score and standard
            error; the problem has scored it.

    Returns:
        Means and errors, or None where the agent cannot say.
    """
    if agent is None:
        return None
    own = [key for key, candidate in candidates.items() if agent.space.offers(candidate.path)]
    found = agent.posterior([candidates[key].path for key in own])
    if found is None:
        return None
    rows = {
        key: (m * problem.z_star, s * problem.z_star) for key, m, s in zip(own, *found, strict=True)
    }
    means, errors = Archive(problem.objectives, problem.z_star), {}
    for key in candidates:
        if key not in rows:
            scored = problem.evaluation(key)
            rows[key] = scored.vector, np.asarray(scored.standard_errors)
        means.add(key, rows[key][0])
        errors[key] = rows[key][1]
    return Posterior(means, errors)


def to_outcome(problem: MergeProblem, evaluation: Evaluation) -> Outcome:
    """An evaluation as the agent sees it: scores over z* and likelihoods, or a failure."""
    if not evaluation.ok:
        return Outcome.failure()
    return Outcome(problem.normalise(evaluation.vector), np.asarray(evaluation.nll))

"""Blends by layer as vectors: what annealing and Bayesian optimisation of layers vary."""

from __future__ import annotations

import numpy as np

from hm3rl.evaluation.problem import MergeProblem
from hm3rl.paths.blend_space import BlendSpace
from hm3rl.search.encoding import GroupedBlends


def blends_of(problem: MergeProblem, groups: int | None) -> GroupedBlends:
    """The encoding of a problem's experts.

    Args:
        problem: Prepared problem.
        groups: Groups of layers; None: every layer is one.
    """
    depth = problem.pool.num_layers
    return GroupedBlends(BlendSpace(problem.pool.expert_names, depth), groups or depth)


def known_blends(problem: MergeProblem, encoding: GroupedBlends) -> tuple[np.ndarray, np.ndarray]:
    """What is known before a search over blends begins: the sources, and the parameter level.

    Args:
        problem: After the parameter level.
        encoding: Of its experts.

    Returns:
        Vectors, shape (N, D), and their scores f / z*, shape (N, K). Merges that are no plain
        task arithmetic are left out.
    """
    vectors, scores = [], []
    for key in problem.archive.keys:
        blend = encoding.space.encode(problem.candidate(key))
        if blend is not None:  # the same at all places, as all is that was scored so far
            vectors.append(np.tile(encoding.rounded(blend[0]), encoding.shape[0]))
            scores.append(problem.archive.vector(key) / problem.z_star)
    return np.array(vectors), np.array(scores)

from __future__ import annotations

import numpy as np
import pytest

from experiments.agent_checks.likelihoods import explained, via_likelihoods
from experiments.agent_checks.zero_shot import table
from hm3rl.envs.synthetic import SyntheticProblem
from hm3rl.surrogate.features import FeatureMap
from tests.surrogate.test_path_surrogate import known_paths


def test_the_zero_shot_table_compares_with_the_dedicated_search() -> None:
    utilities = {
        "greedy": (0.9, 0.6),
        "decoded": (1.0, 0.7),
        "dedicated": (1.0, 0.8),
        "expert": (0.5, 0.5),
    }
    rows = [
        ["tiny_zoo", variant, "3", f"test_utility_{i:02d}", str(value)]
        for variant, values in utilities.items()
        for i, value in enumerate(values)
    ]
    lines = table(rows)
    assert lines[-1].split(" | ")[1:] == [
        *("2", "0.7500", "0.8500", "0.9000", "0.5000"),
        *("83.3%", "94.4%", "75.0% |"),
    ]
    assert [line.split()[1] for line in lines[2:]] == ["3", "all"]


def test_scores_that_are_a_function_of_the_likelihoods_are_predicted_by_way_of_them() -> None:
    problem = SyntheticProblem.draw(6, 3, 2, seed=4)
    dataset = known_paths(problem, 100)
    mapping = FeatureMap(problem.space())
    features = mapping(dataset.tokens)
    logarithms = dataset.vectors
    scores = logarithms**2 + 1.0
    train, test = features.rows(np.arange(60)), features.rows(np.arange(60, 100))
    found = via_likelihoods(train, test, scores[:60], logarithms[:60], mapping.depths)
    assert explained(found, scores[60:]) > 0.95
    assert explained(np.zeros((40, 2)) + scores[60:].mean(axis=0), scores[60:]) == pytest.approx(0)

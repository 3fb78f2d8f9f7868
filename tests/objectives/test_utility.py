"""The utility: one for training and for picking, and what it does with equals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hm3rl.config.schema import AgentSettings
from hm3rl.objectives.utility import Utility

MATH_ONLY = np.array([1.0, 0.0])


def test_it_is_made_of_the_settings_and_survives_being_stored():
    settings = AgentSettings(scalarisation="tchebycheff", length_cost=0.07, utopia=1.3)
    utility = Utility.of(settings)
    assert utility == Utility("tchebycheff", 0.07, 1.3)
    assert Utility.from_dict(json.loads(json.dumps(utility.to_dict()))) == utility


def test_a_utopian_point_for_each_objective_survives_being_stored():
    utility = Utility("tchebycheff", utopia=np.array([1.2, 1.4]))
    again = Utility.from_dict(json.loads(json.dumps(utility.to_dict())))
    vectors = np.array([[1.0, 0.5], [0.2, 0.9]])
    goal = np.array([0.5, 0.5])
    assert (again(vectors, 0, goal) == utility(vectors, 0, goal)).all()


@pytest.mark.parametrize("kind", ["weighted_sum", "tchebycheff"])
def test_of_equal_utilities_a_dominated_model_is_never_the_best(kind):
    vectors = np.array([[0.8, 0.1], [0.9, 0.2], [0.9, 0.5], [0.9, 0.4]])
    assert Utility(kind).best(vectors, np.array([4, 4, 6, 4]), MATH_ONLY) == 2


def test_of_equal_vectors_the_shortest_path_is_the_best_and_then_the_first():
    vectors = np.array([[0.9, 0.5], [0.9, 0.5], [0.9, 0.5], [0.1, 0.1]])
    assert Utility().best(vectors, np.array([6, 4, 4, 2]), MATH_ONLY) == 1


def test_the_length_cost_outweighs_what_it_costs():
    vectors = np.array([[0.9, 0.5], [0.8, 0.5]])
    lengths = np.array([8, 4])
    assert Utility().best(vectors, lengths, MATH_ONLY) == 0
    assert Utility(length_cost=0.05).best(vectors, lengths, MATH_ONLY) == 1

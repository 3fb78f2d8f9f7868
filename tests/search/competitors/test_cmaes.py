from __future__ import annotations

import numpy as np
import pytest

from hm3rl.merging.profile import Place
from hm3rl.search.encoding import LOWEST_DENSITY, LayerGroupEncoding
from hm3rl.search.ledger import Ledger
from tests.search.formula import decisions, formula_problem

cma_bridge = pytest.importorskip("hm3rl.search.cma_bridge")


def test_every_group_of_layers_has_its_own_weights_and_densities():
    encoding = LayerGroupEncoding(("a", "b"), depth=5, groups=2)
    vector = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.0])
    recipe = encoding.recipe(vector)
    at = [Place("mlp", layer, 5) for layer in range(5)]
    # Three layers and two; the embedding goes with the first.
    assert [recipe.weights_at(p) for p in at] == [(0.1, 0.3)] * 3 + [(0.5, 0.7)] * 2
    low = (0.6, LOWEST_DENSITY)
    assert [recipe.densities_at(p) for p in at] == [(0.2, 0.4)] * 3 + [low] * 2
    assert recipe.weights_at(Place("rest", None, 5)) == (0.1, 0.3)
    assert recipe.operator == "dare_ties" and recipe.normalise is False


def test_one_group_is_a_plain_recipe_and_more_groups_than_layers_are_one_each():
    plain = LayerGroupEncoding(("a", "b"), depth=4, groups=1).recipe(np.full(4, 0.5))
    assert not plain.varies
    assert LayerGroupEncoding(("a", "b"), depth=4, groups=9).shape == (4, 2, 2)


def test_it_beats_random_vectors_of_the_same_space():
    def reached(random: bool) -> float:
        found = []
        for seed in range(3):
            problem, rng = formula_problem(budget=300), np.random.default_rng(seed)
            encoding = LayerGroupEncoding(problem.pool.expert_names, 4, groups=2)
            ledger = Ledger(problem, 300, "test")
            if random:
                ledger.score([encoding.decode(v) for v in encoding.sample(300, rng)])
            else:
                cma_bridge.evolve_cma(ledger, encoding, 2, rng)
            found.append(problem.archive.hypervolume())
        return float(np.mean(found))

    assert reached(random=False) > 1.02 * reached(random=True)


def test_draws_come_from_the_generator_given_and_leave_numpys_alone():
    keys = []
    for state in (1, 2):
        np.random.seed(state)
        before = np.random.get_state()[1].tolist()
        problem = formula_problem()
        encoding = LayerGroupEncoding(problem.pool.expert_names, 4, groups=1)
        ledger = Ledger(problem, 40, "test")
        cma_bridge.evolve_cma(ledger, encoding, 2, np.random.default_rng(0))
        assert np.random.get_state()[1].tolist() == before
        keys.append(decisions(problem))
    assert keys[0] == keys[1]

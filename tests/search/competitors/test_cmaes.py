from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest

from hm3rl.config.compose import compose_settings
from hm3rl.merging.profile import Place
from hm3rl.run.build import build_searcher
from hm3rl.search.encoding import LOWEST_DENSITY, LayerGroupEncoding
from hm3rl.search.ledger import KnownPoints, Ledger
from tests.search.formula import decisions, formula_problem
from tests.search.formula_paths import path_problem

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
                plan = cma_bridge.plan(300, 10, len(encoding.lower))
                nothing = KnownPoints.scored(problem, encoding, [])
                cma_bridge.evolve_cma(ledger, encoding, plan, rng, nothing)
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
        nothing = KnownPoints.scored(problem, encoding, [])
        plan = cma_bridge.plan(40, 10, 6)
        cma_bridge.evolve_cma(ledger, encoding, plan, np.random.default_rng(0), nothing)
        assert np.random.get_state()[1].tolist() == before
        keys.append(decisions(problem))
    assert keys[0] == keys[1]


@pytest.mark.parametrize("budget", [40, 99, 299, 1000])
@pytest.mark.parametrize("size", [6, 171])
def test_a_plan_has_ten_generations_for_each_preference_and_spends_the_budget(
    budget: int, size: int
):
    plan = cma_bridge.plan(budget, 10, size)
    assert plan.generations >= 10
    assert cma_bridge.SMALLEST <= plan.population <= 4 + 3 * np.log(size)
    # What is left is less than one more generation for everybody.
    generation = plan.population * plan.preferences
    assert budget - generation < plan.generations * generation <= budget
    assert plan.preferences >= min(10, budget // 40)


@pytest.mark.parametrize(("name", "budget"), [("cmaes", 100), ("cmaes_dfs", 100), ("cmaes", 41)])
def test_strategies_run_ten_generations_or_until_they_have_converged(
    name: str, budget: int, monkeypatch
):
    strategies, make = [], cma_bridge._strategy

    def watched(*given):
        strategies.append(make(*given))
        return strategies[-1]

    monkeypatch.setattr(cma_bridge, "_strategy", watched)
    problem = path_problem(budget=budget) if name == "cmaes_dfs" else formula_problem(budget=budget)
    settings = compose_settings([f"search={name}", f"budget={budget}"])
    build_searcher(settings).search(problem, budget)
    assert problem.used == budget
    # The last one may have been cut off by the end of the budget.
    assert all(one.countiter >= 10 or one.stop() for one in strategies[:-1])
    assert strategies[0].countiter >= 9


def test_a_strategy_starts_from_the_best_of_sources_and_middle_under_its_preference(monkeypatch):
    starts, make = [], cma_bridge._strategy
    monkeypatch.setattr(
        cma_bridge, "_strategy", lambda mean, *rest: starts.append(mean) or make(mean, *rest)
    )
    preferences = cycle(np.array([[0.98, 0.01, 0.01], [0.01, 0.01, 0.98], [1 / 3] * 3]))
    monkeypatch.setattr(cma_bridge, "sample_dirichlet", lambda *_: [next(preferences)])
    # Merges are worth nothing here, but for the middle of the box, which is worth a little.
    problem = formula_problem(
        budget=130,
        formula=lambda recipe, experts: np.full(
            3, 0.5 if recipe.density == 0.5 and set(dict(recipe.weights).values()) == {0.5} else 0.1
        ),
    )
    build_searcher(compose_settings(["search=cmaes", "search.groups=1", "budget=130"])).search(
        problem, 130
    )
    encoding = LayerGroupEncoding(problem.pool.expert_names, 4, groups=1)
    expected = [encoding.source("e0"), encoding.source("e2"), np.full(6, 0.5)]
    assert [start.tolist() for start in starts[:3]] == [row.tolist() for row in expected]

"""Every competitor starts from what was scored before it, as far as its kind can use it."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.config.searchers import ParameterSettings, RMMSettings
from hm3rl.envs.cursor import Cursor
from hm3rl.objectives.utility import Utility
from hm3rl.search.architecture_level import path_space
from hm3rl.search.competitors.rmm import Walkers
from hm3rl.search.encoding import LayerGroupEncoding, RecipeEncoding
from hm3rl.search.ledger import KnownPoints, Ledger
from hm3rl.search.path_encoding import DepthEncoding
from tests.search.formula import DEPTH, formula_problem
from tests.search.formula_paths import path_problem
from tests.search.test_baselines import searcher as over_recipes
from tests.search.test_path_baselines import searcher as over_paths

EXPERTS = ("e0", "e1", "e2")


@pytest.fixture
def first_parents(monkeypatch) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """First population of each evolution: vectors, what is minimised, evaluations it cost."""
    pytest.importorskip("pymoo")
    from hm3rl.search import evolution
    from hm3rl.search.competitors import de, nsga2

    found: list[tuple[np.ndarray, np.ndarray, int]] = []

    def watched(ledger, encoding, algorithm, *rest, **known):
        before = ledger.left

        def note(algorithm) -> None:
            if len(found) == 0:
                values = algorithm.pop.get("X", "F")
                found.append((*values, before - ledger.left))

        algorithm.callback = note
        evolution.evolve(ledger, encoding, algorithm, *rest, **known)

    for module in (nsga2, de):
        monkeypatch.setattr(module, "evolve", watched)
    return found


@pytest.mark.parametrize("name", ["nsga2_paths", "nsga3_paths"])
def test_experts_and_merged_members_are_the_first_parents_of_paths(name: str, first_parents):
    problem = path_problem(budget=60)
    over_paths(name, "budget=60", "search.parameter.members=5").search(problem, 60)
    ((vectors, minimised, cost),) = first_parents
    # The stem and the member of each depth, all the same: three experts, five merges.
    whole = {int(row[0]) for row in vectors if len(set(row)) == 1}
    assert whole >= set(range(8)) and cost == len(vectors) - 8 <= 12
    for member, expert in enumerate(EXPERTS):
        (at,) = np.flatnonzero((vectors == member).all(axis=1))
        key = next(k for k in problem.archive.keys if problem.candidate(k).path.stem == expert)
        scores = problem.normalise(problem.archive.vector(key))
        assert minimised[at] == pytest.approx(-scores)


@pytest.mark.parametrize("name", ["nsga2", "nsga3", "de"])
def test_the_sources_are_among_the_first_parents_of_merges(name: str, first_parents):
    problem = formula_problem()
    over_recipes(name).search(problem, 40)
    ((vectors, minimised, cost),) = first_parents
    rows = [tuple(row) for row in vectors]
    known = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)]
    assert set(known) <= set(rows) and cost == 16 == len(rows) - 4
    if name != "de":
        scores = problem.normalise(np.array([0.9, 0.2, 0.2]))
        assert minimised[rows.index(known[0])] == pytest.approx(-scores)


def test_a_source_in_differential_evolution_holds_the_place_that_likes_it_most():
    pytest.importorskip("pymoo")
    from hm3rl.search.competitors.de import fitting_first

    preferences = np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
    ordered = fitting_first(preferences, np.array([[1.0, 0.2], [0.2, 1.0]]))
    assert ordered.tolist() == preferences[[2, 0, 1]].tolist()


def test_sources_are_vectors_of_the_merges_that_are_them_where_there_are_such():
    settings = ParameterSettings(operators=["ties", "task_arithmetic"])
    free = RecipeEncoding(EXPERTS, settings, DEPTH)
    for expert in EXPERTS:
        recipe = free.recipe(free.source(expert))
        assert recipe.weights == ((expert, 1.0),)
        assert (recipe.operator, recipe.scale, recipe.density) == ("task_arithmetic", 1.0, 1.0)
    assert free.recipe(free.source(None)).weights == ()
    scaled = ParameterSettings(operators=["task_arithmetic"], weights="simplex")
    simplex = RecipeEncoding(EXPERTS, scaled, DEPTH)
    recipe = simplex.recipe(simplex.source("e1"))
    assert (recipe.weights, recipe.scale) == ((("e1", 1.0),), 1.0)
    assert simplex.source(None) is None
    # TIES that always trims something, and a scale above 1, never give an expert.
    assert RecipeEncoding(EXPERTS, ParameterSettings(operators=["ties"]), 4).source("e0") is None
    above = ParameterSettings(weights="simplex", scale_min=1.5)
    assert RecipeEncoding(EXPERTS, above, DEPTH).source("e0") is None
    grouped = LayerGroupEncoding(EXPERTS, DEPTH, 2)
    recipe = grouped.recipe(grouped.source("e2"))
    assert (recipe.weights, recipe.density) == ((("e2", 1.0),), 1.0)
    assert grouped.recipe(grouped.source(None)).weights == ()


def test_known_points_are_those_that_got_scores():
    problem = formula_problem(fails=lambda recipe: True)
    encoding = LayerGroupEncoding(EXPERTS, DEPTH, 1)
    known = KnownPoints.sources(problem, encoding)
    assert known.vectors.shape == (4, 6) and problem.used == 0
    assert known.scores[0] == pytest.approx(problem.normalise(np.array([0.9, 0.2, 0.2])))
    failed = np.full(6, 0.5)
    problem.evaluate([encoding.decode(failed)], "test")
    assert len(KnownPoints.scored(problem, encoding, [failed, np.full(6, 0.4)]).vectors) == 0


def test_maps_surrogates_are_fitted_to_the_sources_too(monkeypatch):
    found = pytest.importorskip("hm3rl.search.competitors.map")
    fitted, known = [], found.QuadraticSurrogate
    monkeypatch.setattr(
        found, "QuadraticSurrogate", lambda x, y: fitted.append((x, y)) or known(x, y)
    )
    over_recipes("map").search(formula_problem(), 40)
    vectors, scores = fitted[0]
    assert vectors[:4].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert scores[1] == pytest.approx([0.2, 0.9, 0.2])


def test_rmms_agents_begin_near_the_best_known_member():
    problem = path_problem(budget=40)
    space = path_space(problem, EXPERTS, describe=False)
    ledger = Ledger(problem, 40, "rmm")
    (agent,) = Walkers(space, ledger, RMMSettings(), np.random.default_rng(1))._agents
    paths = DepthEncoding(problem, space)
    whole = KnownPoints.scored(problem, paths, map(paths.whole, range(3)))
    agreed = []
    for preference in np.random.default_rng(1).dirichlet(np.ones(3), size=40):
        best = int(np.argmax([Utility()(row, DEPTH, preference) for row in whole.scores]))
        cursor = Cursor(space)
        while not cursor.ended:
            seen, legal = cursor.observe(preference), cursor.mask()
            action, _ = agent.predict(seen, deterministic=True, action_masks=legal)
            agreed.append(int(action) == best)
            cursor.act(int(action))
    # Always the same member would agree for three preferences of four.
    assert np.mean(agreed) > 0.8 and problem.used == 0


def test_the_forest_knows_members_and_merges_that_are_not_offered(monkeypatch):
    depth_wise = pytest.importorskip("hm3rl.search.competitors.depth_wise")
    fitted, known = [], depth_wise.Forest
    monkeypatch.setattr(
        depth_wise, "Forest", lambda x, y, seed: fitted.append((x, y)) or known(x, y, seed)
    )
    problem = path_problem(budget=60)
    over_paths("depth_wise", "budget=60", "search.parameter.members=5").search(problem, 60)
    features, vectors = fitted[0]
    merges = [c for c in map(problem.candidate, problem.archive.keys) if _is_whole_merge(c)]
    # Three experts and twenty merges, five of them members, before the first path is asked for.
    assert len(merges) >= 20 and features.shape == (23, DEPTH * 7 + 6)
    scores = {tuple(np.round(row, 9)) for row in vectors}
    for candidate in merges[:20]:
        scored = problem.normalise(problem.known([candidate])[0].vector)
        assert tuple(np.round(scored, 9)) in scores
        weights = [dict(candidate.recipes[0].weights).get(name, 0.0) for name in EXPERTS]
        assert any(np.allclose(row[DEPTH : DEPTH + 3], weights) for row in features)


def _is_whole_merge(candidate) -> bool:
    return bool(candidate.recipes) and len(candidate.path.members) == 1
